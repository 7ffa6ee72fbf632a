"""Write a state dict to a file of a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from ckptlab.atomic import written_aside
from ckptlab.errors import ConfigError, RunExistsError, WriteError

SUFFIXES = (".safetensors", ".pt", ".pth")
"""Of the files that are written."""

_METADATA = {"format": "pt"}  # what other readers of safetensors look for


def write_checkpoint(
    state: Mapping[str, torch.Tensor], path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write a state dict that ``model.load_state_dict`` takes.

    Parameters
    ----------
    state : mapping of str to Tensor
        As `Run.state_dict` gives it.
    path : str or path-like
        Ends in one of `SUFFIXES`, which says the format. It is there as a whole or not at all.
    overwrite : bool
        Whether a file there may be replaced.

    Raises
    ------
    ConfigError
        If the name ends otherwise.
    RunExistsError
        If something lies there and `overwrite` is not set.
    WriteError
        If it cannot be written.
    """
    target = Path(path)
    if target.suffix not in SUFFIXES:
        raise ConfigError(
            f"{target} does not end in {', '.join(SUFFIXES)}; the suffix is the format"
        )
    if target.is_dir() or (os.path.lexists(target) and not overwrite):
        raise RunExistsError(f"{target} exists; give another name, or --overwrite to replace it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(target) as aside:
            aside.touch()  # its errors say more than those of what writes it
            mode = aside.stat().st_mode
            if target.suffix == ".safetensors":
                # Tied tensors are one in memory, which that format does not know.
                save_file({name: value.clone() for name, value in state.items()}, aside, _METADATA)
            else:
                torch.save(dict(state), aside)
            aside.chmod(mode)  # safetensors lets nobody else read it
    except OSError as error:
        raise WriteError(f"{target} cannot be written: {error.strerror or error}") from error
    except (RuntimeError, SafetensorError) as error:
        why = str(error).partition("\n")[0]
        raise WriteError(f"{target} cannot be written: {why}") from error
