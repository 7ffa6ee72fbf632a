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
            wanted = WEIGHTS.T[rows, 8 * j :][:, :8]
            columns = np.arange(wanted.shape[1])
            assert same_bits(StoredBlock(weights, 0, j).take(rows, columns), wanted)


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


def test_selections_through_dask_equal_numpy(path) -> None:
    found = open_store(path).dataset()["weights"]
    rng = np.random.default_rng(1)
    scattered = np.sort(rng.choice(LAYOUT.parameters, 50, replace=False))
    for rows, columns in (
        (slice(None), 5),
        (slice(CHUNK - 1, 3 * CHUNK + 1), slice(3, 10)),
        (LAYOUT.parameters - 1, slice(None)),
        (scattered, slice(None, None, 3)),
        (slice(None, None, -7), [11, 0, 7]),
    ):
        selected = found.isel(param=rows, step=columns).values
        assert same_bits(selected, WEIGHTS.T[rows][..., columns])


def test_one_step_of_one_chunk_reads_no_other_chunk(path) -> None:
    storage = Counting(path)
    weights = open_latest(storage).dataset()["weights"]
    whole = (path / "weights/c/0/0").stat().st_size
    storage.read = 0
    assert weights.isel(param=3 * CHUNK + 5, step=2).values == WEIGHTS[2, 3 * CHUNK + 5]
    assert storage.read < whole / 4


def test_a_raw_run_gives_one_step_without_reading_the_others(tmp_path) -> None:
    write_run(tmp_path / "raw.zarr", WEIGHTS, LAYOUT, codec="raw")
    storage = Counting(tmp_path / "raw.zarr")
    run = open_latest(storage)
    run.small("digest")
    storage.read = 0
    assert same_bits(run.snapshot(30), WEIGHTS[3])
    assert storage.read < 1.5 * WEIGHTS[3].nbytes
    file = tmp_path / "raw.zarr/weights/c/0/0"
    data = bytearray(file.read_bytes())
    data[3 * 4 * CHUNK + 1000] ^= 1  # step 3 of the first chunk
    file.write_bytes(data)
    with pytest.raises(CorruptError, match="another digest"):
        run.snapshot(30)


@pytest.mark.parametrize("limit", [0, 2**26])
def test_large_shards_are_read_in_pieces(path, monkeypatch, limit) -> None:
    monkeypatch.setattr("ckptlab.store.read.array_reader.MAX_WHOLE", limit)
    weights = open_store(path).weights
    for column in range(12):
        assert same_bits(weights.read_column(column), WEIGHTS[column])
    assert same_bits(weights.read_block(1), WEIGHTS[8:])
