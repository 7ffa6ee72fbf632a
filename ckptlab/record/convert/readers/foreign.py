"""Recognise checkpoints that are not torch's, and say how to convert them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

_TO_TORCH = "load it there and save the arrays with safetensors, one file a step"

_FILES: tuple[tuple[str, str, str], ...] = (
    (r"\.(weights\.h5|h5|hdf5|keras)$", "a Keras checkpoint", _TO_TORCH),
    (r"\.msgpack$|^(flax_model|checkpoint)_?\d+$", "a Flax msgpack checkpoint", _TO_TORCH),
    (r"\.index$|\.data-\d{5}-of-\d{5}$|^saved_model\.pb$", "a TensorFlow checkpoint", _TO_TORCH),
    (r"\.npz$|\.npy$", "a NumPy archive", "save the arrays with safetensors.numpy.save_file"),
    (r"\.(gguf|ggml)$", "a llama.cpp model", "take the safetensors it was made from"),
    (r"\.onnx$", "an ONNX model", "take the torch checkpoint it was made from"),
    (r"\.(zip|tar\.gz|tgz|gz|zst|7z)$", "a packed archive", "unpack it first"),
    (r"\.pkl$", "a plain pickle", "load it where you trust it and torch.save the tensors"),
)

_FOLDERS: tuple[tuple[Callable[[Path], bool], str, str], ...] = (
    (
        lambda p: (
            any((p / n).exists() for n in ("_CHECKPOINT_METADATA", "manifest.ocdbt", "_METADATA"))
            or any((p / n / "manifest.ocdbt").exists() for n in ("default", "params", "state"))
        ),
        "an Orbax checkpoint of JAX",
        _TO_TORCH,
    ),
    (lambda p: (p / "saved_model.pb").is_file(), "a TensorFlow model", _TO_TORCH),
)


def foreign(path: Path) -> str | None:
    """Say in one line what a file or folder is and how to convert it; None if it is not known."""
    folders = [(what, fix) for matches, what, fix in _FOLDERS if path.is_dir() and matches(path)]
    files = [
        (what, fix)
        for pattern, what, fix in _FILES
        if re.search(pattern, path.name, re.IGNORECASE) and not path.is_dir()
    ]
    for what, fix in folders + files:
        return f"{path} is {what}, not one of torch's; {fix}"
    return None
