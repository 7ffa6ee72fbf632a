"""Write a state dict as others load it: safetensors in shards, and folders of transformers."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from ckptlab.atomic import written_aside
from ckptlab.errors import ConfigError, NoSpaceError, RunExistsError, WriteError
from ckptlab.record.convert.choose_weights import flatten
from ckptlab.record.convert.readers.model_folder import read_folder, weights_file
from ckptlab.store.format.parts import part_of

SUFFIXES = (".safetensors", ".pt", ".pth")
"""Of the files that are written."""

SHARD_BYTES = 5 * 2**30
"""Bytes of a file of safetensors at most."""

BESIDE = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.spm", "*.bpe", "*.vocab")
"""Files of a model's folder that are copied: its config and its tokenizer."""

NOT_BESIDE = ("*.index.json", "trainer_state.json", "adapter_config.json", "*results.json")

State = Mapping[str, torch.Tensor]


def split_ties(state: State) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return each tensor once, and what other names stand for which, as `save_model` writes them.

    Of tied names the first counts that is no head's: libraries look for an embedding by its name.
    """
    names: dict[object, list[str]] = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        names.setdefault(place if tensor.numel() else name, []).append(name)
    ties: dict[str, str] = {}
    for tied in names.values():
        kept = min(tied, key=lambda name: part_of(name) == "head")
        ties |= {name: kept for name in tied if name != kept}
    return {name: tensor for name, tensor in state.items() if name not in ties}, ties


def write_safetensors(state: State, target: Path, shard_bytes: int) -> list[Path]:
    """Write one file, or shards and their index beside where it would be longer.

    Ties go into the metadata. Returns the files, the index last.
    """
    tensors, ties = split_ties(state)
    shards: list[dict[str, torch.Tensor]] = [{}]
    held = 0
    for name, tensor in tensors.items():
        if shards[-1] and held + tensor.nbytes > shard_bytes:
            shards.append({})
            held = 0
        alone = tensor.untyped_storage().nbytes() == tensor.nbytes
        shards[-1][name] = tensor.contiguous() if alone else tensor.clone()
        held += tensor.nbytes
    files = [target]
    if len(shards) > 1:
        ends = [f"{i:05}-of-{len(shards):05}" for i in range(1, len(shards) + 1)]
        files = [target.with_name(f"{target.stem}-{end}{target.suffix}") for end in ends]
    for file, shard in zip(files, shards, strict=True):
        with written_aside(file) as aside:
            aside.touch()  # its errors say more than those of what writes it
            mode = aside.stat().st_mode
            own = {alias: name for alias, name in ties.items() if name in shard}
            save_file(shard, aside, {**own, "format": "pt"})
            aside.chmod(mode)  # safetensors lets nobody else read it
    if len(shards) == 1:
        return files
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
        "weight_map": {
            name: file.name for file, shard in zip(files, shards, strict=True) for name in shard
        },
    }
    listed = target.with_name(f"{target.name}.index.json")
    with written_aside(listed) as aside:
        aside.write_text(json.dumps(index, indent=2) + "\n")
    return [*files, listed]


def write_checkpoint(
    state: State,
    path: str | os.PathLike[str],
    *,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
) -> None:
    """Write a state dict that ``model.load_state_dict`` takes.

    Parameters
    ----------
    state : mapping of str to Tensor
        As `Run.state_dict` gives it.
    path : str or path-like
        Ends in one of `SUFFIXES`, which says the format. A file is there as a whole or not at all.
        Safetensors know no tied tensors: they are in the file once, and the other names in its
        metadata, which ``safetensors.torch.load_model`` reads.
    shard_bytes : int
        A file of safetensors is at most so long, unless one tensor is longer; above that there are
        shards and an index.
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
    require_free_file(target, overwrite=overwrite)
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".safetensors":
            write_safetensors(state, target, shard_bytes)
        else:
            with written_aside(target) as aside:
                aside.touch()
                torch.save(dict(state), aside)


def write_folder(
    state: State,
    path: str | os.PathLike[str],
    *,
    like: str | os.PathLike[str] | None = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
) -> None:
    """Write a folder that ``from_pretrained`` of transformers loads.

    Parameters
    ----------
    state : mapping of str to Tensor
        As `Run.state_dict` gives it.
    path : str or path-like
        The folder; it is there as a whole or not at all.
    like : str or path-like, optional
        A folder of the same model, whose config and tokenizer are copied.
    shard_bytes : int
        A file is at most so long, unless one tensor is longer.
    overwrite : bool
        Whether a folder that was exported before may be replaced.

    Raises
    ------
    ConfigError
        If `like` is no folder with a config.json, or its weights are of another model.
    RunExistsError
        If something lies there and `overwrite` is not set, or it was not exported.
    WriteError
        If it cannot be written.
    """
    target = Path(path)
    beside = files_beside(Path(like)) if like is not None else []
    if like is not None:
        _require_alike(state, Path(like))
    require_free_folder(target, overwrite=overwrite)
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(target) as aside:
            aside.mkdir()
            for file in beside:
                shutil.copyfile(file, aside / file.name)
            write_safetensors(state, aside / "model.safetensors", shard_bytes)


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Say in one line why something cannot be written."""
    try:
        yield
    except OSError as error:
        full = error.errno == errno.ENOSPC
        kind, fix = (NoSpaceError, "; make space") if full else (WriteError, "")
        raise kind(f"{target} cannot be written: {error.strerror or error}{fix}") from error
    except (RuntimeError, SafetensorError) as error:
        why = str(error).partition("\n")[0]
        full = "No space left" in why
        raise (NoSpaceError if full else WriteError)(
            f"{target} cannot be written: {why}"
        ) from error


def require_free_file(target: Path, *, overwrite: bool) -> None:
    """Raise ConfigError for a suffix that is no format, RunExistsError if the path is taken."""
    if target.suffix not in SUFFIXES:
        raise ConfigError(
            f"{target} does not end in {', '.join(SUFFIXES)}; the suffix is the format"
        )
    if target.is_dir() or (os.path.lexists(target) and not overwrite):
        raise RunExistsError(f"{target} exists; give another name, or --overwrite to replace it")


def files_beside(like: Path) -> list[Path]:
    """List the files of a model's folder that say what it is; ConfigError if there is no config."""
    if not (like / "config.json").is_file():
        raise ConfigError(
            f"{like} holds no config.json; give a folder of the model with its config and "
            "tokenizer, or leave --like out"
        )
    return sorted(
        file
        for file in like.iterdir()
        if file.is_file()
        and any(fnmatch(file.name, pattern) for pattern in BESIDE)
        and not any(fnmatch(file.name, pattern) for pattern in NOT_BESIDE)
    )


def _require_alike(state: State, like: Path) -> None:
    """Raise ConfigError if the weights beside the config have other names or shapes."""
    if weights_file(like) is None:
        return
    content = read_folder(like)
    theirs = {name: tuple(t.shape) for name, t in flatten(content.tree)}
    mine = {name: tuple(tensor.shape) for name, tensor in state.items()}
    ties = {*split_ties(state)[1], *content.ties}
    for name in sorted((mine.keys() ^ theirs.keys()) - ties | (mine.keys() & theirs.keys())):
        if mine.get(name) != theirs.get(name):
            here, there = (shapes.get(name, "missing") for shapes in (mine, theirs))
            raise ConfigError(
                f"{like} is of another model: tensor {name!r} is {there} there and {here} in the "
                "run; give a folder of the same model"
            )


def require_free_folder(target: Path, *, overwrite: bool) -> None:
    """Raise RunExistsError unless a folder may be written there: nothing else is ever removed."""
    if not os.path.lexists(target):
        return
    inside = [*target.iterdir()] if target.is_dir() else []
    if target.is_dir() and not inside:
        return
    known = (*BESIDE, "model*.safetensors")
    exported = any(fnmatch(entry.name, "model*.safetensors") for entry in inside) and all(
        entry.is_file() and any(fnmatch(entry.name, pattern) for pattern in known)
        for entry in inside
    )
    if not exported:
        raise RunExistsError(f"{target} holds other files than an export; give another name")
    if not overwrite:
        raise RunExistsError(f"{target} exists; give another name, or --overwrite to replace it")
