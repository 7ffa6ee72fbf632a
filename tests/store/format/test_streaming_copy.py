import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptlab.store.format.streaming_copy import WORD, copy_rows, gather_at

GUARD = 0x5A


def bytes_of(rng: np.random.Generator, size: int) -> np.ndarray:
    return rng.integers(0, 256, size, np.uint8)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 70), max_size=6),
    st.integers(0, 15),
    st.integers(0, 2**32 - 1),
)
def test_stretches_lie_one_behind_the_other_and_nothing_else_changes(lengths, offset, seed):
    rng = np.random.default_rng(seed)
    parts = [bytes_of(rng, WORD * (n + 1))[WORD:] for n in lengths]  # at any word
    place = np.full(WORD * (offset + sum(lengths) + 40), GUARD, np.uint8)
    before = place.copy()
    begin, size = WORD * offset, WORD * sum(lengths)
    gather_at(
        np.uintp(place.ctypes.data + begin),
        np.array([part.ctypes.data for part in parts], np.uintp),
        np.array(lengths, np.uintp),
    )
    before[begin : begin + size] = np.concatenate([np.empty(0, np.uint8), *parts])
    assert np.array_equal(place, before)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 5),
    st.integers(0, 70),
    st.sampled_from(["<f4", "<f8", "<i8", "<i2", "?"]),
    st.sampled_from(["rows", "turned", "backwards", "every other"]),
    st.integers(0, 2**32 - 1),
)
def test_rows_equal_those_of_numpy_bit_for_bit(rows, columns, dtype, form, seed):
    rng = np.random.default_rng(seed)
    held = {
        "rows": (rows, columns + 3),
        "turned": (columns, rows),
        "backwards": (rows, columns),
        "every other": (rows, 2 * columns),
    }[form]
    size = int(np.prod(held)) * np.dtype(dtype).itemsize
    base = (bytes_of(rng, size) % 2 if dtype == "?" else bytes_of(rng, size)).view(dtype)
    base = base.reshape(held)
    source = {
        "rows": base[:, 2 : 2 + columns],
        "turned": base.T,
        "backwards": base[::-1],
        "every other": base[:, ::2],
    }[form]
    place = np.full((rows, columns + 5, np.dtype(dtype).itemsize), 1, np.uint8)
    room = place.view(dtype)[..., 0]
    copy_rows(room[:, 3 : 3 + columns], source)
    assert room[:, 3 : 3 + columns].tobytes() == source.tobytes()
    assert (place[:, :3] == 1).all()
    assert (place[:, 3 + columns :] == 1).all()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="float64"):
        copy_rows(np.zeros((2, 3), np.float32), np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"\(2, 4\)"):
        copy_rows(np.zeros((2, 3)), np.zeros((2, 4)))


def test_another_thread_sees_all_of_it():
    source, place = np.zeros((1, 2**18), np.float32), np.zeros((1, 2**18), np.float32)
    turn, torn = threading.Barrier(2), []

    def look() -> None:
        for value in range(1, 200):
            turn.wait()
            torn.extend([value] if (place != value).any() else [])
            turn.wait()

    reader = threading.Thread(target=look)
    reader.start()
    for value in range(1, 200):
        source[:] = value
        copy_rows(place, source)
        turn.wait()
        turn.wait()
    reader.join()
    assert not torn
