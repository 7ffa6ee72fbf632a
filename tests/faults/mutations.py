"""What hostile or broken software may do to a run, drawn at random."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ckptlab.store.format.checksum import checksummed
from ckptlab.store.format.zarr_metadata import metadata_digest

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 31, 2**31, 2**63, -(2**63), 2**64, 10**30, 10**400),
    *(0.5, 1e308, -1e308, "", "weights", "../../../etc/passwd", "\0", "\ud800", "é" * 300),
    *("NaN", "Infinity", "float32", "object", "numcodecs.pickle", "<script>", "a" * 100_000),
    *([], {}, [[]], {"name": "numcodecs.pickle"}, [0], [1, 2, 3], [-1, -1], {"": ""}),
]


def mutate(path: Path, rng: np.random.Generator) -> str:
    """Change a run in one way; returns in which, for messages."""
    kinds = [flip_bytes, cut_file, other_file, remove_file, change_root, change_root, change_root]
    kinds += [change_values, change_index, change_stream, change_own]
    kind = kinds[int(rng.integers(len(kinds)))]
    return f"{kind.__name__}: {kind(path, rng)}"


def _files(path: Path, pattern: str = "") -> list[Path]:
    found = [f for f in sorted(path.rglob("*")) if f.is_file() and f.name != "writer.lock"]
    return [f for f in found if pattern in f.as_posix()]


def _one(choices: list[Any], rng: np.random.Generator) -> Any:
    return choices[int(rng.integers(len(choices)))]


def flip_bytes(path: Path, rng: np.random.Generator) -> str:
    """Up to eight bytes of one file."""
    file = _one(_files(path), rng)
    data = bytearray(file.read_bytes())
    for _ in range(int(rng.integers(1, 9))):
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
    file.write_bytes(data)
    return file.name


def cut_file(path: Path, rng: np.random.Generator) -> str:
    """Torn at the end, at the start, or with something put in."""
    file = _one(_files(path), rng)
    data = file.read_bytes()
    a, b = sorted(rng.integers(0, len(data) + 1, 2).tolist())
    file.write_bytes(_one([data[:a], data[a:], data[:a] + data[b:], data[:b] + data[a:]], rng))
    return str(file)


def other_file(path: Path, rng: np.random.Generator) -> str:
    """The content of another file of the run."""
    file, other = _one(_files(path), rng), _one(_files(path), rng)
    file.write_bytes(other.read_bytes())
    return f"{file} gets {other}"


def remove_file(path: Path, rng: np.random.Generator) -> str:
    """Gone, or in its place a folder, a pipe that would be waited for, a link to nowhere."""
    file = _one(_files(path), rng)
    file.unlink()
    instead = _one([None, None, Path.mkdir, os.mkfifo, lambda f: f.symlink_to(f)], rng)
    if instead is not None:
        instead(file)
    return str(file)


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Every container of a JSON document with every key in it."""
    items = (
        list(node.items())
        if isinstance(node, dict)
        else list(enumerate(node))
        if isinstance(node, list)
        else []
    )
    places = [(node, key) for key, _ in items]
    for _, child in items:
        places += _places(child)
    return places


def _change_json(document: Any, rng: np.random.Generator) -> str:
    node, key = _one(_places(document), rng)
    action = _one(["value", "value", "value", "remove", "rename", "add"], rng)
    if action == "remove":
        del node[key]
    elif action == "rename" and isinstance(node, dict):
        node[str(_one(VALUES, rng))] = node.pop(key)
    elif action == "add" and isinstance(node, dict):
        node[str(_one(VALUES, rng))] = _one(VALUES, rng)
    else:
        node[key] = _one(VALUES, rng)
    return f"{action} {key!r:.40}"


def change_root(path: Path, rng: np.random.Generator) -> str:
    """The root metadata, with a digest that is right again where that is possible."""
    file = path / "zarr.json"
    root = json.loads(file.read_text())
    told = ", ".join(_change_json(root, rng) for _ in range(int(rng.integers(1, 3))))
    try:
        attributes = root["attributes"]
        metadata = root["consolidated_metadata"]["metadata"]
        attributes["metadata_digest"] = metadata_digest(attributes, metadata)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        pass
    file.write_text(json.dumps(root))
    return told


def change_own(path: Path, rng: np.random.Generator) -> str:
    """An array's own metadata."""
    file = _one(_files(path, "/zarr.json"), rng)
    document = json.loads(file.read_text())
    told = _change_json(document, rng)
    file.write_text(json.dumps(document))
    return f"{file} {told}"


def change_values(path: Path, rng: np.random.Generator) -> str:
    """A small array, with a checksum that is right again."""
    names = ("step", "anchor", "eval_step", "loss", "digest", "gradient_norm", "skipped")
    file = _one([f for name in names for f in _files(path, f"/{name}/c/")], rng)
    body = bytearray(file.read_bytes()[:-4])
    start = int(rng.integers(min(len(body), 200)))
    noise = rng.integers(0, 256, int(rng.integers(1, 9)), dtype=np.uint8).tobytes()
    body[start : start + len(noise)] = noise
    file.write_bytes(checksummed(bytes(body)))
    return str(file)


def _shards(path: Path) -> list[Path]:
    return [f for f in _files(path, "/c/0/") if f.stat().st_size > 40]


def change_index(path: Path, rng: np.random.Generator) -> str:
    """Where a shard's index says that its chunks lie, with a right checksum."""
    file = _one(_shards(path), rng)
    data = file.read_bytes()
    index = np.frombuffer(data[-20:-4], "<u8").copy()
    index[int(rng.integers(2))] = _one([0, 1, len(data), 2**32, 2**63, 2**64 - 1], rng)
    file.write_bytes(data[:-20] + checksummed(index.tobytes()))
    return f"{file} {index}"


def change_stream(path: Path, rng: np.random.Generator) -> str:
    """Compressed bytes, with a right checksum: the decoder itself meets them."""
    file = _one(_shards(path), rng)
    data = file.read_bytes()
    offset, length = (int(n) for n in np.frombuffer(data[-20:-4], "<u8"))
    if offset + length != len(data) - 20 or length < 5:
        return "no single chunk"
    body = bytearray(data[offset : offset + length - 4])
    for _ in range(int(rng.integers(1, 5))):
        body[int(rng.integers(len(body)))] = int(rng.integers(256))
    if rng.random() < 0.2:
        body = body[: int(rng.integers(1, len(body) + 1))]
    chunk = checksummed(bytes(body))
    index = checksummed(np.array([0, len(chunk)], "<u8").tobytes())
    file.write_bytes(chunk + index)
    return str(file)
