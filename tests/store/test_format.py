"""A second reader, written from docs/format.md alone: neither zarr nor ckptlab's reader."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import xxhash
from pcodec import standalone

from tests.store.samples import layout_of, same_bits, trajectory, write_run


class SecondReader:
    """Reads steps and weights of a run with the codec `dense`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        document = json.loads((path / "zarr.json").read_text())
        self.attributes: dict[str, Any] = document["attributes"]
        self.metadata = document["consolidated_metadata"]["metadata"]
        assert self.attributes["format"] == 1
        digest = self.attributes.pop("metadata_digest")
        whole = {"attributes": self.attributes, "metadata": self.metadata}
        text = json.dumps(whole, sort_keys=True, separators=(",", ":"))
        assert xxhash.xxh3_64_hexdigest(text.encode()) == digest

    def small(self, name: str, dtype: str) -> np.ndarray:
        *rows, length = self.metadata[name]["shape"]
        folder = self.path.joinpath(name, "c", *("0" for _ in rows))
        files = [folder / str(i) for i in range(-(-length // 1024))]
        parts = [np.frombuffer(checked(file.read_bytes()), dtype) for file in files]
        return np.concatenate([part.reshape(*rows, 1024) for part in parts], -1)[..., :length]

    def weights(self) -> np.ndarray:
        """All snapshots, shape (param, step)."""
        count = sum(int(np.prod(t["shape"])) for t in self.attributes["tensors"])
        block, steps = self.attributes["block"], len(self.small("step", "<i8"))
        rows = min(count, 16384)
        per_shard = min(-(-count // rows), 2**21 // 16384)
        out = np.empty((count, steps), np.float32)
        for i in range(-(-count // (rows * per_shard))):
            for j in range(-(-steps // block)):
                data = (self.path / "weights" / "c" / str(i) / str(j)).read_bytes()
                index = np.frombuffer(checked(data[-(16 * per_shard + 4) :]), "<u8")
                for c, (offset, length) in enumerate(index.reshape(per_shard, 2).tolist()):
                    body = checked(data[offset : offset + length])
                    chunk = standalone.simple_decompress(body).reshape(rows, block)
                    part = out[rows * (per_shard * i + c) :][:rows, block * j :][:, :block]
                    part[:] = chunk[: part.shape[0], : part.shape[1]]
        return out


def checked(data: bytes) -> bytes:
    """Take off the crc32c, which must be right."""
    assert struct.unpack("<I", data[-4:])[0] == google_crc32c.value(data[:-4])
    return data[:-4]


@pytest.mark.parametrize("steps", [21, 24])
@pytest.mark.parametrize("sizes", [(5, 6), (20_000, 25_001)])
def test_the_documentation_is_enough(tmp_path: Path, sizes: tuple[int, ...], steps: int) -> None:
    layout = layout_of(*sizes)
    weights = trajectory(steps, layout.parameters)
    write_run(tmp_path, weights, layout)
    reader = SecondReader(tmp_path)
    assert reader.attributes["state"] == "complete"
    assert reader.small("step", "<i8").tolist() == [10 * k for k in range(steps)]
    read = reader.weights()
    assert same_bits(read, weights.T)
    columns = np.ascontiguousarray(read.T)
    digests = [xxhash.xxh3_64_intdigest(column.tobytes()) for column in columns]
    assert reader.small("digest", "<u8").tolist() == [digests]
