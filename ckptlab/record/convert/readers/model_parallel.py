"""Read DeepSpeed's and Megatron's folders, where one file holds the model."""

from __future__ import annotations

import re
from pathlib import Path

from ckptlab.errors import DataError
from ckptlab.record.convert.readers.model_folder import inside
from ckptlab.record.convert.tensors import Content

_DEEPSPEED = re.compile(r"(zero_pp_rank_\d+_)?mp_rank_(\d+)_model_states\.pt")
_MEGATRON = re.compile(r"mp_rank_\d+(_\d+)*")
_MEGATRON_FILES = ("model_optim_rng.pt", "model_rng.pt")


def is_deepspeed(path: Path) -> bool:
    """Return whether a folder is a checkpoint of DeepSpeed."""
    return any(path.glob("*mp_rank_*_model_states.pt"))


def read_deepspeed(path: Path) -> Content:
    """Read the module's states; DataError if they are spread over files."""
    names = sorted(p.name for p in path.iterdir() if _DEEPSPEED.fullmatch(p.name))
    if len(names) != 1 or names[0].startswith("zero_pp"):
        raise DataError(
            f"{path} holds a model spread over {len(names)} files (ZeRO 3 or tensor parallel); "
            "join them with DeepSpeed's zero_to_fp32.py"
        )
    return _read(path, names[0])


def is_megatron(path: Path) -> bool:
    """Return whether a folder is a checkpoint of Megatron."""
    return any(path.glob("mp_rank_*/model*rng.pt"))


def read_megatron(path: Path) -> Content:
    """Read the model; DataError if it is spread over files."""
    ranks = sorted(p.name for p in path.iterdir() if _MEGATRON.fullmatch(p.name))
    if len(ranks) != 1:
        raise DataError(
            f"{path} holds a model spread over {len(ranks)} ranks; join them with Megatron's "
            "tools/checkpoint/convert.py (tensor and pipeline parallel size 1)"
        )
    file = next(name for name in _MEGATRON_FILES if (path / ranks[0] / name).is_file())
    return _read(path, f"{ranks[0]}/{file}")


def _read(path: Path, name: str) -> Content:
    from ckptlab.record.convert.readers.pickles import read_torch_file

    return read_torch_file(inside(path, name))
