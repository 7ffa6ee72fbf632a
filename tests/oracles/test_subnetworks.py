"""Pruned and perturbed weights against plain Python, one weight at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ckptlab.experiments.operations.perturbations import States, perturb
from ckptlab.experiments.operations.pruning import prune_magnitude, prune_random, shuffle_mask
from ckptlab.experiments.operations.registry import parse_kind
from ckptlab.record.state.model_tensors import capture
from tests.oracles import subnetworks as oracles

torch.manual_seed(0)
LAYOUT = capture(
    nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 2), nn.Linear(30, 20))
).layout
TABLE = [
    {"name": t.name, "shape": t.shape, "offset": t.offset, "prunable": len(t.shape) > 1}
    for t in LAYOUT.tensors
]
SCOPES = ["global", "layer"]


def states(seed: int = 0) -> States:
    rng = np.random.default_rng(seed)
    now, initial, fresh = rng.normal(size=(3, LAYOUT.parameters)).astype(np.float32)
    keep = rng.random(LAYOUT.parameters) < 0.6
    for row in TABLE:
        if not row["prunable"]:
            keep[row["offset"] : row["offset"] + int(np.prod(row["shape"]))] = True
    return States(now=now, initial=initial, fresh=fresh, mask=keep, layout=LAYOUT)


def changed(given: States, kind: str) -> np.ndarray:
    return perturb(given, parse_kind(kind), np.random.default_rng(1))


def plain(given: States) -> dict[str, object]:
    return {
        "now": np.where(given.mask, given.now, np.float32(0)),
        "initial": given.initial,
        "fresh": given.fresh,
        "table": TABLE,
        "keep": given.mask,
        "at": oracles.groups(TABLE, given.mask, "global")["all"],
    }


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("fraction", [0.2, 0.37, 0.9])
def test_magnitude_pruning_level_by_level(scope: str, fraction: float) -> None:
    rng = np.random.default_rng(3)
    # Rounded, so that many magnitudes are tied.
    keep = wanted = np.ones(LAYOUT.parameters, bool)
    for _ in range(3):
        weights = np.round(rng.normal(size=LAYOUT.parameters), 1).astype(np.float32)
        wanted = oracles.magnitude(weights, wanted, TABLE, fraction, scope)
        keep = prune_magnitude(weights, keep, LAYOUT, fraction, scope=scope)
        np.testing.assert_array_equal(keep, wanted)


@pytest.mark.parametrize("scope", SCOPES)
def test_one_shot(scope: str) -> None:
    weights = np.random.default_rng(5).normal(size=LAYOUT.parameters).astype(np.float32)
    keep = np.ones(LAYOUT.parameters, bool)
    found = prune_magnitude(weights, keep, LAYOUT, 0.2, levels=4, scope=scope)
    wanted = oracles.one_shot(weights, keep, TABLE, 0.2, scope, 4)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("scope", SCOPES)
def test_random_pruning(scope: str) -> None:
    keep = np.ones(LAYOUT.parameters, bool)
    rng = np.random.default_rng(0)
    masks = [prune_random(keep, LAYOUT, rng, 0.25, scope=scope) for _ in range(400)]
    for mask in masks[:3]:
        left = oracles.groups(TABLE, mask, scope)
        counts = {key: len(members) for key, members in left.items()}
        assert counts == oracles.random_count(keep, TABLE, 0.25, scope)
    at = oracles.groups(TABLE, keep, "global")["all"]
    chance = np.mean(masks, axis=0)[at]
    # Each weight is kept in three of four masks; 5 standard errors.
    assert np.abs(chance - 0.75).max() < 5 * np.sqrt(0.75 * 0.25 / 400)


def test_random_pruning_level_by_level() -> None:
    rng = np.random.default_rng(2)
    keep = np.ones(LAYOUT.parameters, bool)
    for level in (1, 2, 3):
        before, keep = keep, prune_random(keep, LAYOUT, rng, 0.3)
        assert not (keep & ~before).any()
        found = {k: len(v) for k, v in oracles.groups(TABLE, keep, "global").items()}
        whole = np.ones(LAYOUT.parameters, bool)
        assert found == oracles.random_levels(whole, TABLE, 0.3, "global", level)


def test_masks_shuffled_within_tensors() -> None:
    weights = np.random.default_rng(5).normal(size=LAYOUT.parameters).astype(np.float32)
    keep = oracles.magnitude(weights, np.ones(LAYOUT.parameters, bool), TABLE, 0.7, "global")
    found = shuffle_mask(keep, LAYOUT, np.random.default_rng(0))
    assert oracles.layer_counts(found, TABLE) == oracles.layer_counts(keep, TABLE)
    assert (found != keep).any()


def test_nothing_and_fresh_weights() -> None:
    given = states()
    np.testing.assert_array_equal(changed(given, "none"), oracles.none(**plain(given)))
    np.testing.assert_array_equal(changed(given, "reinit"), oracles.reinit(**plain(given)))


@pytest.mark.parametrize("a", ["0", "k", "fresh"])
def test_signs_and_magnitudes(a: str) -> None:
    given = states()
    named = {"0": given.initial, "k": given.now, "fresh": given.fresh}
    for b, magnitudes in named.items():
        wanted = oracles.sign(signs=named[a], magnitudes=magnitudes, **plain(given))
        np.testing.assert_array_equal(changed(given, f"sign:{a},magnitude:{b}"), wanted)
    wanted = oracles.constant(signs=named[a], **plain(given)).astype(np.float32)
    np.testing.assert_array_equal(changed(given, f"constant:{a}"), wanted)


@pytest.mark.parametrize("group", ["global", "layer", "filter"])
@pytest.mark.parametrize("signs", ["", "keep-signs", "initial-signs"])
def test_shuffles(group: str, signs: str) -> None:
    given = states()
    found = changed(given, f"shuffle:{group},{signs}".rstrip(","))
    options = plain(given)
    held, where = oracles.shuffle(group=group, signs=signs, **without(options, "fresh", "at"))
    for key, members in oracles.groups(TABLE, given.mask, group).items():
        values = found[members]
        kept = np.abs(values) if signs == "initial-signs" else values
        assert sorted(kept.tolist()) == held[key]
    at = np.array(options["at"])
    if where is not None:
        np.testing.assert_array_equal(np.sign(found[at]), where[at])
    # Nearly all moved, and nothing but survivors.
    assert (np.abs(found[at]) != np.abs(given.now[at])).mean() > 0.5
    others = np.setdiff1d(np.arange(len(found)), at)
    np.testing.assert_array_equal(found[others], options["now"][others])


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_noise(scale: float) -> None:
    given = states()
    added = [
        perturb(given, parse_kind(f"noise:{scale}"), np.random.default_rng(s)) - given.now
        for s in range(40)
    ]
    for row in TABLE:
        members = oracles.groups([row], given.mask, "global").get("all")
        if members:
            values = np.array(added)[:, members].ravel().astype(np.float64)
            mean, std = oracles.noise(row, scale)
            count = len(values)
            assert abs(values.mean() - mean) < 5 * std / np.sqrt(count)
            assert abs(values.var() / std**2 - 1) < 5 * np.sqrt(2 / count)


def without(options: dict[str, object], *names: str) -> dict[str, object]:
    return {key: value for key, value in options.items() if key not in names}
