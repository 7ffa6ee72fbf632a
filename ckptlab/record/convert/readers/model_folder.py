"""Read folders that hold one checkpoint, as transformers, Accelerate and PEFT write them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ckptlab.errors import DataError
from ckptlab.record.convert.readers.safetensors_file import natural, read_safetensors
from ckptlab.record.convert.tensors import UNFINISHED, Content, LazyTensor

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "model.pt",
    "model.pth",
)
"""Files that hold a model's weights, the first that is there counts (transformers' order)."""

MAX_JSON = 2**28
"""No index is longer, in bytes."""

INDEX_SUFFIX = ".index.json"
SHARD = re.compile(r"(?P<stem>.+)-(?P<i>\d{5})-of-(?P<n>\d{5})(?P<suffix>\.safetensors|\.bin)")
_FILES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_BESIDE = re.compile(
    r"optim|sched|scaler|rng|random|training_args|trainer|ema|sampler|train\.pt", re.IGNORECASE
)


def weights_file(path: Path, *, alone: bool = True) -> str | None:
    """Name the file in a folder that holds or lists its weights; None if it is no such folder.

    `alone` also takes the only file of a checkpoint, whatever its name.
    """
    try:
        names = sorted(entry.name for entry in path.iterdir() if not entry.is_dir())
    except OSError:
        return None
    for name in WEIGHTS:
        if name in names:
            return name
    listed = [name for name in names if name.endswith(INDEX_SUFFIX)]
    shards = [name for name in names if SHARD.fullmatch(name)]
    if listed or shards:
        return (listed or shards)[0]
    others = [n for n in names if n.lower().endswith(_FILES) and not _BESIDE.search(n)]
    return others[0] if alone and len(others) == 1 and not others[0].startswith(".") else None


def read_folder(path: Path) -> Content:
    """Read the checkpoint in a folder; DataError if a part of it is missing or damaged."""
    chosen = weights_file(path)
    if chosen is None:
        raise DataError(f"{path} holds no checkpoint; accepted: a folder with {WEIGHTS[0]}")
    content = read_part(path, chosen)
    used = {chosen, *_shards_of(path, chosen)}
    copies: dict[str | None, Callable[[], Content]] = {}
    for entry in sorted(path.iterdir()):
        name = entry.name
        beside = name in used or entry.is_dir() or _BESIDE.search(name) or SHARD.fullmatch(name)
        if name.lower().endswith((*_FILES, INDEX_SUFFIX)) and not beside:
            stem = name.partition(".")[0]
            copies[stem] = partial(read_part, path, name)
            content.notes.append(f"took {chosen}, left out {name} (--weights {stem} takes it)")
    content.copies = copies
    if chosen.endswith((".safetensors", INDEX_SUFFIX)):
        content.order = partial(_order, path)  # these files are sorted by name
    content.step = _trainer_step(path)
    optimizer = next(
        (path / n for n in ("optimizer.pt", "optimizer.bin") if (path / n).is_file()), None
    )
    if optimizer is not None:
        content.optimizers = partial(_optimizer, optimizer)
    return content


def read_part(folder: Path, name: str) -> Content:
    """Read one file of a folder, or the shards that an index lists."""
    if name.endswith(INDEX_SUFFIX):
        return _read_index(folder, name)
    if match := SHARD.fullmatch(name):
        names = [
            f"{match['stem']}-{i:05}-of-{match['n']}{match['suffix']}"
            for i in range(1, int(match["n"]) + 1)
        ]
        parts = [read_part_file(folder, shard, f"one of {match['n']} shards") for shard in names]
        return _joined(folder, parts)
    return read_part_file(folder, name)


def read_part_file(folder: Path, name: str, what: str = "") -> Content:
    """Read a file that a folder or an index names; DataError if it is missing or lies elsewhere."""
    path = inside(folder, name)
    if not path.is_file():
        raise DataError(
            f"{folder} lacks {name}{', ' * bool(what)}{what}; copy it there, or leave the folder "
            "out with --pattern",
            file=str(path),
            problem=UNFINISHED,
        )
    if name.lower().endswith(".safetensors"):
        return read_safetensors(path)
    from ckptlab.record.convert.readers.pickles import read_torch_file

    return read_torch_file(path)


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file that a checkpoint names; DataError if it lies outside."""
    path = folder / name
    root = folder.resolve()
    if root.parent.name == "snapshots":  # the Hub's cache links to blobs beside the snapshots
        root = root.parent.parent
    if Path(name).is_absolute() or ".." in Path(name).parts or not _within(path, root):
        raise DataError(
            f"{folder} names {name!r:.80}, which lies outside of it; only files in a checkpoint's "
            "own folder are read",
            file=str(folder),
        )
    return path


def _within(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a loop of links
        return False


def read_json(path: Path) -> Mapping[str, Any]:
    """Read a JSON object; DataError if it is none."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(MAX_JSON))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is damaged: it holds no JSON object")
    return found


def _read_index(folder: Path, name: str) -> Content:
    listed = read_json(inside(folder, name)).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
        raise DataError(f"{folder / name} is damaged: it has no weight_map of names to files")
    files = {
        file: read_part_file(folder, file, f"which {name} lists")
        for file in dict.fromkeys(listed.values())
    }
    content = _joined(folder, [*files.values()])
    for tensor, file in listed.items():
        if tensor not in files[file].tree:
            raise DataError(f"{folder / file} lacks {tensor!r}, which {name} says it holds")
    extra = [tensor for tensor in content.tree if tensor not in listed]
    if extra:
        content.notes.append(f"left out {', '.join(extra[:3])}: not in {name}")
        content.tree = {tensor: content.tree[tensor] for tensor in content.tree if tensor in listed}
    return content


def _joined(folder: Path, parts: list[Content]) -> Content:
    tensors: dict[str, Any] = {}
    for part in parts:
        for name, value in part.tree.items():
            if isinstance(value, LazyTensor) and name in tensors:
                raise DataError(f"{folder} holds {name!r} in two shards; save it again")
            tensors[name] = value
    ordered = {name: tensors[name] for name in sorted(tensors, key=natural)}
    ties = {alias: name for part in parts for alias, name in part.ties.items()}
    return Content(tree=ordered, ties=ties, ranged=all(part.ranged for part in parts))


def _shards_of(folder: Path, name: str) -> set[str]:
    if not name.endswith(INDEX_SUFFIX):
        return set()
    return {str(file) for file in read_json(folder / name).get("weight_map", {}).values()}


def _trainer_step(path: Path) -> int | None:
    state = path / "trainer_state.json"
    if not state.is_file():
        return None
    step = read_json(state).get("global_step")
    return step if isinstance(step, int) and step >= 0 else None


def _order(path: Path, names: list[str]) -> list[str] | None:
    """Order names as the class of transformers that `config.json` names has its parameters."""
    try:
        import torch
        import transformers

        config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False)
        model = getattr(transformers, config.architectures[0])
        with torch.device("meta"):
            found = [name for name, _ in model(config).named_parameters()]
    except Exception:  # not installed, no config, or a class that transformers does not have
        return None
    return found if set(found) <= set(names) else None


def _optimizer(path: Path) -> list[Mapping[str, Any]]:
    from ckptlab.record.convert.readers.pickles import load

    return [load(path)]
