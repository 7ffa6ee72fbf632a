"""Single chunks of a shard: only they are read, and a file that changes meanwhile does no harm."""

from __future__ import annotations

import numpy as np
import pytest

from ckptlab.analyze.engine.blocks import StoredBlock
from ckptlab.errors import CorruptError
from ckptlab.store.backends.local import LocalStorage
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.shards import encode_shard
from ckptlab.store.read.reader import open_latest, open_store
from tests.store.samples import layout_of, same_bits, trajectory, write_run

CHUNK = 16384
LAYOUT = layout_of(3 * CHUNK, 2 * CHUNK + 100)  # six chunks
WEIGHTS = trajectory(12, LAYOUT.parameters)


class Counting(LocalStorage):
    """Counts the bytes that are read, and can do something after the first of them."""

    def __init__(self, path, after_first=None) -> None:
        super().__init__(path)
        self.read = 0
        self.after_first = after_first

    def get(self, key, limit=None):
        data = super().get(key, limit)
        self.read += len(data)
        return data

    def get_part(self, key, start, stop):
        data = super().get_part(key, start, stop)
        self.read += len(data)
        if self.after_first is not None:
            act, self.after_first = self.after_first, None
            act(key)
        return data


@pytest.fixture
def path(tmp_path):
    write_run(tmp_path / "run.zarr", WEIGHTS, LAYOUT)
    return tmp_path / "run.zarr"


def weights_of(storage):
    return open_latest(storage).weights


@pytest.mark.parametrize("url", ["local", "memory"])
@pytest.mark.parametrize("chosen", [[], [2], [0, 5], [1, 2, 4], [0, 1, 2, 3, 4, 5]])
def test_chosen_chunks_are_those_of_the_whole(tmp_path, url, chosen) -> None:
    where = f"memory://{tmp_path}" if url == "memory" else tmp_path / "run.zarr"
    write_run(where, WEIGHTS, LAYOUT)
    weights = weights_of(open_storage(where))
    for j in (0, 1):
        columns = min(8, 12 - 8 * j)
        found = dict(weights.read_chunks(0, j, np.array(chosen, np.int64)))
        assert list(found) == chosen
        for c, chunk in found.items():
            wanted = WEIGHTS[8 * j : 8 * j + columns, CHUNK * c : CHUNK * (c + 1)].T
            assert same_bits(chunk[: len(wanted), :columns], wanted)


def test_rows_are_taken_wherever_they_lie(path) -> None:
    weights = open_store(path).weights
    rng = np.random.default_rng(0)
    for rows in (
        np.array([0]),
        np.array([CHUNK - 1, CHUNK, 5 * CHUNK + 99]),
        np.arange(2 * CHUNK, 3 * CHUNK),
        np.sort(rng.choice(LAYOUT.parameters, 500, replace=False)),
        np.arange(LAYOUT.parameters),
    ):
        for j in (0, 1):
            assert same_bits(StoredBlock(weights, 0, j).take(rows), WEIGHTS.T[rows, 8 * j :][:, :8])


def test_no_more_is_read_than_one_chunk_and_the_index(path) -> None:
    storage = Counting(path)
    weights = weights_of(storage)
    whole = (path / "weights/c/0/0").stat().st_size
    storage.read = 0
    list(weights.read_chunks(0, 0, np.array([3])))
    assert storage.read < whole / 5


def test_a_block_that_grows_between_two_reads_is_read_again(path) -> None:
    def grow(key: str) -> None:
        # As the writer replaces a partial block: other chunks, of other lengths.
        data = encode_shard(np.roll(WEIGHTS[8:], 1, axis=1), weights.grid, 0)
        LocalStorage(path).put(key, [data])

    storage = Counting(path, after_first=grow)
    weights = weights_of(storage)
    ((_, chunk),) = weights.read_chunks(0, 1, np.array([3]))
    wanted = np.roll(WEIGHTS[8:], 1, axis=1)[:, 3 * CHUNK : 4 * CHUNK].T
    assert same_bits(chunk[:, :4], wanted)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_found(path, damage) -> None:
    weights = open_store(path).weights
    file = path / "weights/c/0/0"
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[weights.read_shard(0, 0).body(0).nbytes + 1000] ^= 1  # in chunk 1
        file.write_bytes(data)
    elif damage == "cut":
        file.write_bytes(data[:-1])
    else:
        file.unlink()
    with pytest.raises(CorruptError, match="run ckptlab verify"):
        list(weights.read_chunks(0, 0, np.array([1])))
    if damage == "flip":
        assert len(list(weights.read_chunks(0, 0, np.array([0, 2])))) == 2
