import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ckptlab.train.counter_rng import bits, derived_seed, integers, permutation, uniform

U64 = np.uint64


def splitmix(state):
    """Vigna's reference code, on unsigned numbers, which torch lacks."""
    with np.errstate(over="ignore"):
        z = state + U64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> U64(30))) * U64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> U64(27))) * U64(0x94D049BB133111EB)
        return z ^ (z >> U64(31))


def numpy_key(seed, stream, *counters):
    key = splitmix(U64(seed))
    for value in (xxhash.xxh3_64_intdigest(stream.encode()), *counters):
        key = splitmix(key ^ splitmix(U64(value)))
    return key


def numpy_bits(key, index):
    with np.errstate(over="ignore"):
        return splitmix(U64(key) + index.astype(U64) * U64(0x9E3779B97F4A7C15))


def test_published_outputs_of_the_generator():
    # The first outputs of SplitMix64 seeded with 1234567.
    drawn = bits(1234567, torch.arange(3)).numpy().view(U64)
    assert drawn.tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


seeds = st.integers(0, 2**64 - 1)
counters = st.lists(st.integers(0, 2**40), max_size=3)
indices = st.lists(st.integers(0, 2**40), min_size=1, max_size=20)


@given(seed=seeds, stream=st.text(max_size=8), counts=counters, index=indices)
def test_equals_the_unsigned_arithmetic_of_numpy(seed, stream, counts, index):
    key = derived_seed(seed, stream, *counts)
    assert key == int(numpy_key(seed, stream, *counts))
    expected = numpy_bits(key, np.array(index))
    assert np.array_equal(bits(key, torch.tensor(index)).numpy().view(U64), expected)


@given(seed=seeds, counts=counters, on_device=st.lists(st.booleans(), min_size=3, max_size=3))
def test_counters_on_the_device_give_the_same(seed, counts, on_device):
    mixed = [torch.tensor(c) if d else c for c, d in zip(counts, on_device, strict=False)]
    key, same = derived_seed(seed, "x", *counts), derived_seed(seed, "x", *mixed)
    assert int(same) % 2**64 == key
    index = torch.arange(5)
    assert torch.equal(bits(same, index), bits(key, index))


@given(key=seeds, index=indices, high=st.integers(1, 2**31 - 1))
def test_numbers_lie_in_range_and_equal_numpy(key, index, high):
    expected = numpy_bits(key, np.array(index))
    whole = integers(key, torch.tensor(index), high).numpy()
    assert np.array_equal(whole, [(int(b) >> 33) * high >> 31 for b in expected])
    assert whole.min() >= 0
    assert whole.max() < high
    drawn = uniform(key, torch.tensor(index)).numpy()
    assert drawn.dtype == np.float32
    assert np.array_equal(drawn, (expected >> U64(40)).astype(np.float64) / 2**24)


def test_draws_are_uniform_and_independent_between_streams_steps_and_seeds():
    index = torch.arange(90_000)
    keys = [
        derived_seed(0, "flip", 0),
        derived_seed(0, "flip", 1),
        derived_seed(0, "crop", 0),
        derived_seed(1, "flip", 0),
    ]
    drawn = [integers(key, index, 9).numpy() for key in keys]
    for sample in drawn:
        assert stats.chisquare(np.bincount(sample, minlength=9)).pvalue > 1e-3
    for other in drawn[1:]:
        table = np.zeros((9, 9), int)
        np.add.at(table, (drawn[0], other), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-3
    assert stats.kstest(uniform(keys[0], index).numpy(), "uniform").pvalue > 1e-3


def test_consecutive_steps_of_one_sample_are_uniform():
    sample = torch.tensor([17])
    drawn = [int(integers(derived_seed(0, "flip", step), sample, 4)) for step in range(8000)]
    assert stats.chisquare(np.bincount(drawn, minlength=4)).pvalue > 1e-3


@given(key=seeds, size=st.integers(1, 300))
def test_a_permutation_holds_every_index_once(key, size):
    order = permutation(key, size)
    assert sorted(order.tolist()) == list(range(size))


def test_every_order_of_three_is_as_likely():
    orders = [tuple(permutation(derived_seed(0, "order", e), 3).tolist()) for e in range(6000)]
    counts = [orders.count(order) for order in sorted(set(orders))]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_same_on_cuda():
    index = torch.arange(10_000)
    key = derived_seed(3, "order", 5)
    assert torch.equal(bits(key, index.cuda()).cpu(), bits(key, index))
    assert torch.equal(permutation(key, 10_000, "cuda").cpu(), permutation(key, 10_000))
