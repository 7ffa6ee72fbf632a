"""Files of checkpoints: a model's tensors by name, read and written.

Pickled code is never run: what would need it is refused.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ckptlab.atomic import written_aside
from ckptlab.errors import ConfigError, DataError, RunExistsError, WriteError

SUFFIXES = (".safetensors", ".pt", ".pth")
"""Of the files that are read and written."""

STATES = ("state_dict", "model_state_dict", "model", "net", "module", "weights", "params")
"""Keys under which checkpoints keep the model's tensors beside the optimizer's and others."""

_PREFIXES = ("module.", "_orig_mod.")
_DIGITS = re.compile(r"(\d+)")
_METADATA = {"format": "pt"}  # what other readers of safetensors look for

State = dict[str, torch.Tensor]


def read_checkpoint(path: Path) -> State:
    """Read a model's tensors, on the CPU; code in the file is not run.

    Parameters
    ----------
    path : Path
        A state dict, or a dict that holds one under one of `STATES`.

    Returns
    -------
    dict of str to Tensor
        By name, without the prefixes of wrappers.

    Raises
    ------
    DataError
        If it cannot be read, needs code to be run, or holds no tensors.
    """
    try:
        path.open("rb").close()  # its errors say more than those of what reads it
        if path.suffix == ".safetensors":
            # Those files keep no order: layer10 comes after layer2.
            loaded = load_file(path)
            found: Any = {name: loaded[name] for name in sorted(loaded, key=_natural)}
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of files of another pickle protocol
                found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except MemoryError:
        raise
    except SafetensorError as error:
        raise DataError(f"{path} is no safetensors file, or not a whole one: {error}") from error
    except Exception as error:  # whatever a damaged or hostile file makes of it
        raise DataError(
            f"{path} is damaged, or holds objects whose code would have to be run "
            f"({type(error).__name__}); save model.state_dict() instead of the model"
        ) from error
    state = _state(found)
    if not state:
        raise DataError(
            f"{path} holds no tensors by name, neither itself nor under {', '.join(STATES)}"
        )
    for name, tensor in state.items():
        if tensor.is_meta:
            raise DataError(f"{path}: tensor {name!r} holds no values (device meta); save it again")
    for prefix in _PREFIXES * 2:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


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


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in _DIGITS.split(name)]


def _state(found: Any, depth: int = 8) -> State:
    """Find the model's tensors by name; empty if there are none."""
    if not isinstance(found, Mapping) or not depth:
        return {}
    for key in STATES:
        if inner := _state(found.get(key), depth - 1):
            return inner
    return {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}
