from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ckptlab.experiments.operations.perturbations import States, effective_std, perturb
from ckptlab.experiments.operations.pruning import prunable
from ckptlab.experiments.operations.registry import GROUPS, STATES, parse_kind
from ckptlab.record.state.model_tensors import capture
from tests.trained import seeded

LAYOUT = capture(
    seeded(
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1, bias=False), nn.Linear(6, 5)
        )
    )
).layout
SIZE = LAYOUT.parameters
KINDS = [
    "none",
    *(f"sign:{a},magnitude:{b}" for a in STATES for b in STATES),
    *(f"constant:{a}" for a in STATES),
    *(f"shuffle:{g}{s}" for g in GROUPS for s in ("", ",keep-signs", ",initial-signs")),
    "noise:0.5",
    "noise:3",
    "reinit",
]


def states_of(seed: int, share: float = 0.6, zeros: float = 0.0) -> States:
    rng = np.random.default_rng(seed)
    now, initial, fresh = rng.normal(size=(3, SIZE)).astype(np.float32)
    for vector in (now, initial):
        vector[rng.random(SIZE) < zeros] = 0
    mask = (rng.random(SIZE) < share) | ~prunable(LAYOUT)
    return States(now=now, initial=initial, fresh=fresh, mask=mask, layout=LAYOUT)


def changed(states: States, kind: str, seed: int = 0) -> np.ndarray:
    return perturb(states, parse_kind(kind), np.random.default_rng(seed))


def groups_of(states: States, group: str) -> dict[tuple[int, ...], list[int]]:
    """Survivors of each group, one weight at a time, by the place in its tensor."""
    found: dict[tuple[int, ...], list[int]] = {}
    for number, tensor in enumerate(LAYOUT.tensors):
        if not tensor.prunable:
            continue
        for i in range(tensor.size):
            place = np.unravel_index(i, tensor.shape)
            key = {"global": (), "layer": (number,), "filter": (number, int(place[0]))}[group]
            if states.mask[tensor.offset + i]:
                found.setdefault(key, []).append(tensor.offset + i)
    return found


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(KINDS), share=st.floats(0, 1))
def test_only_survivors_change_and_seeds_repeat(seed, kind, share):
    states = states_of(seed, share, zeros=0.1)
    result = changed(states, kind, seed)
    assert result.dtype == np.float32
    assert not result[~states.mask].any()
    fixed = ~prunable(LAYOUT)
    assert np.array_equal(result[fixed], states.now[fixed])
    assert np.array_equal(result, changed(states, kind, seed))


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), group=st.sampled_from(GROUPS))
def test_shuffles_keep_what_each_group_holds(seed, group):
    states = states_of(seed, zeros=0.1)
    plain = changed(states, f"shuffle:{group}", seed)
    kept = changed(states, f"shuffle:{group},keep-signs", seed)
    initial = changed(states, f"shuffle:{group},initial-signs", seed)
    for places in groups_of(states, group).values():
        held = Counter(states.now[places].tolist())
        assert Counter(plain[places].tolist()) == held
        assert Counter(kept[places].tolist()) == held
        assert np.array_equal(np.sign(kept[places]), np.sign(states.now[places]))
        assert Counter(np.abs(initial[places]).tolist()) == Counter(
            np.abs(states.now[places]).tolist()
        )
        signs = np.sign(initial[places]) * np.sign(states.initial[places])
        assert (signs >= 0).all()


@pytest.mark.parametrize("group", GROUPS)
def test_shuffles_reach_every_place_of_their_group_and_no_other(group):
    states = states_of(3, share=1.0)
    numbered = States(
        now=np.arange(1, SIZE + 1, dtype=np.float32),
        initial=states.initial,
        fresh=None,
        mask=states.mask,
        layout=LAYOUT,
    )
    reached: dict[int, set[int]] = {}
    for seed in range(600):
        for place, value in enumerate(changed(numbered, f"shuffle:{group}", seed)):
            reached.setdefault(place, set()).add(int(value) - 1)
    for places in groups_of(numbered, group).values():
        if len(places) > 40:  # more draws than this test has time for
            assert all(reached[place] <= set(places) for place in places)
        else:
            assert all(reached[place] == set(places) for place in places)


@pytest.mark.parametrize("a", STATES)
@pytest.mark.parametrize("b", STATES)
def test_signs_of_one_state_and_magnitudes_of_another(a, b):
    states = states_of(1, zeros=0.2)
    table = {"0": states.initial, "k": states.now, "fresh": states.fresh}
    result = changed(states, f"sign:{a},magnitude:{b}")
    for i in states.survivors:
        sign = np.sign(table[a][i]) or np.sign(table[b][i])
        assert result[i] == sign * abs(table[b][i])
    if a == b == "k":
        assert np.array_equal(result[states.survivors], states.now[states.survivors])


def test_constant_magnitudes_are_the_initial_standard_deviation():
    states = states_of(2)
    result = changed(states, "constant:0")
    for name, fan_in in (("0.weight", 18), ("2.weight", 4), ("3.weight", 6)):
        tensor = LAYOUT[name]
        places = [i for i in states.survivors if 0 <= i - tensor.offset < tensor.size]
        np.testing.assert_allclose(np.abs(result[places]), np.sqrt(2 / fan_in), rtol=1e-6)
        assert np.array_equal(np.sign(result[places]), np.sign(states.initial[places]))


def test_noise_has_the_standard_deviation_of_its_layer():
    states = states_of(4, share=1.0)
    draws = np.stack([changed(states, "noise:2.0", seed) - states.now for seed in range(400)])
    for name, fan_in in (("0.weight", 18), ("2.weight", 4), ("3.weight", 6)):
        tensor = LAYOUT[name]
        part = draws[:, tensor.offset : tensor.offset + tensor.size]
        sigma = 2 * np.sqrt(2 / fan_in)
        assert part.std() == pytest.approx(sigma, rel=5 / np.sqrt(2 * part.size))
        assert abs(part.mean()) < 5 * sigma / np.sqrt(part.size)
    assert not draws[:, ~prunable(LAYOUT)].any()


def test_effective_std_is_over_the_survivors():
    states = states_of(5)
    result = changed(states, "shuffle:layer")
    change = [float(result[i]) - float(states.now[i]) for i in states.survivors]
    assert effective_std(states, result) == pytest.approx(np.std(change), rel=1e-12)
    assert effective_std(states, changed(states, "none")) == 0


def test_reinit_is_the_fresh_initialisation():
    states = states_of(6)
    result = changed(states, "reinit")
    assert np.array_equal(result[states.survivors], states.fresh[states.survivors])
