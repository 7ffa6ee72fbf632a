import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptlab.errors import CorruptError
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format import zarr_metadata
from ckptlab.store.format.small_arrays import GrowingArray, chunk_key, read_all, read_chunk

ONE = zarr_metadata.small(["step"], "int64", -1, chunk=4)
TWO = zarr_metadata.small(["tensor", "step"], "float32", "NaN", inner=[3], chunk=4)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.integers(1, 9)),
            st.tuples(st.just("fill"), st.integers(1, 9)),
            st.tuples(st.just("cut"), st.integers(0, 30)),
            st.tuples(st.just("reopen"), st.just(0)),
            st.tuples(st.just("rewrite"), st.integers(1, 3)),
        ),
        max_size=12,
    )
)
def test_any_sequence_equals_a_list(tmp_path_factory, actions):
    storage = open_storage(tmp_path_factory.mktemp("growing"), fsync=False)
    model: list[int] = []
    array = GrowingArray(storage, "step", ONE)
    for action, amount in actions:
        start = len(model)
        if action == "write":
            model += [100 + start + k for k in range(amount)]
            array.write(start, np.array(model[start:]))
        elif action == "fill":
            model += [-1] * amount
            array.write(start, np.array(model[start:]))
        elif action == "rewrite" and start:
            # As a partly filled block is: within the last chunk.
            first = max(start - amount, (start - 1) // 4 * 4)
            array.write(first, np.array(model[first:]))
        elif action == "cut":
            del model[amount:]
            array.truncate(len(model))
        elif action == "reopen":
            array = GrowingArray(storage, "step", ONE, len(model))
        assert read_all(storage, "step", ONE, len(model)).tolist() == model


def test_what_stays_as_it_is_is_not_written_again(tmp_path):
    storage = open_storage(tmp_path, fsync=False)
    array = GrowingArray(storage, "norm", TWO)
    unknown = np.full((3, 2), np.nan, np.float32)
    assert list(array.changed(0, unknown)) == ["norm/c/0/0"]
    assert list(array.changed(2, unknown)) == []
    assert list(array.changed(4, unknown)) == ["norm/c/0/1"]  # a chunk of its own
    assert list(array.changed(5, unknown)) == []
    assert list(array.changed(6, np.zeros((3, 1), np.float32))) == ["norm/c/0/1"]
    assert list(array.changed(6, -np.zeros((3, 1), np.float32))) == ["norm/c/0/1"]  # other bits
    array.truncate(6)
    assert list(array.changed(6, unknown[:, :1])) == ["norm/c/0/1"]  # the file holds -0


def test_zarr_reads_what_is_written(tmp_path):
    storage = open_storage(tmp_path, fsync=False)
    values = np.arange(30, dtype=np.float32).reshape(3, 10)
    GrowingArray(storage, "norm", TWO).write(0, values)
    import json

    document = zarr_metadata.with_length(TWO, {"step": 10})
    storage.put("norm/zarr.json", [json.dumps(document).encode()])
    array = zarr.open_array(tmp_path / "norm", mode="r")
    assert np.array_equal(array[:], values)
    assert np.isnan(array.fill_value)


def test_the_rest_of_a_chunk_is_fill(tmp_path):
    storage = open_storage(tmp_path, fsync=False)
    GrowingArray(storage, "step", ONE).write(0, np.array([5, 6]))
    assert read_chunk(storage, "step", ONE, 0).tolist() == [5, 6, -1, -1]


def test_a_file_that_is_missing_torn_or_flipped_is_named(tmp_path):
    storage = open_storage(tmp_path, fsync=False)
    GrowingArray(storage, "step", ONE).write(0, np.arange(4))
    file = tmp_path / chunk_key("step", ONE, 0)
    data = file.read_bytes()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(CorruptError, match="step/c/0 is damaged"):
            read_all(storage, "step", ONE, 2)
        file.write_bytes(data[:position])
        with pytest.raises(CorruptError, match="step/c/0 is damaged"):
            read_all(storage, "step", ONE, 2)
    file.write_bytes(data + b"0")
    with pytest.raises(CorruptError, match="37 bytes, and at most 36"):
        read_all(storage, "step", ONE, 2)
    file.unlink()
    with pytest.raises(CorruptError, match="step/c/0 is missing"):
        read_all(storage, "step", ONE, 2)
    assert read_all(storage, "step", ONE, 0).shape == (0,)
