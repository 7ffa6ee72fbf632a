"""Oracles of pruning and of perturbations, one weight at a time in plain Python."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np

from tests.oracles.plain import FRANKLE, oracle

Array = np.ndarray
Table = list[dict[str, Any]]


def groups(table: Table, keep: Array, group: str) -> dict[Any, list[int]]:
    """Positions of the surviving prunable weights of each group."""
    found: dict[Any, list[int]] = defaultdict(list)
    for row in table:
        if not row["prunable"]:
            continue
        size = int(np.prod(row["shape"]))
        for i in range(size):
            output = i // (size // row["shape"][0])
            key = {"global": "all", "layer": row["name"], "filter": (row["name"], output)}[group]
            if keep[row["offset"] + i]:
                found[key].append(row["offset"] + i)
    return found


@oracle("pruning", "imp", "exact", f"{FRANKLE}, section 3; arXiv:1912.05671, algorithm 1")
def magnitude(weights: Array, keep: Array, table: Table, fraction: float, scope: str) -> Array:
    """Drop the fraction of survivors of lowest magnitude; of ties the lower position goes."""
    result = keep.copy()
    for members in groups(table, keep, scope).values():
        ranked = sorted(members, key=lambda i: (abs(float(weights[i])), i))
        result[ranked[: round(fraction * len(members))]] = False
    return result


@oracle("pruning", "one-shot", "exact", "arXiv:1506.02626")
def one_shot(
    weights: Array, keep: Array, table: Table, fraction: float, scope: str, levels: int
) -> Array:
    """As many at once as so many levels would, by the same magnitudes."""
    for _ in range(levels):
        keep = magnitude(weights, keep, table, fraction, scope)
    return keep


@oracle("pruning", "random", "count exact; positions uniform", "arXiv:1803.03635, section 2")
def random_count(keep: Array, table: Table, fraction: float, scope: str) -> dict[Any, int]:
    """How many survivors each group keeps."""
    return {
        key: len(members) - round(fraction * len(members))
        for key, members in groups(table, keep, scope).items()
    }


@oracle("pruning", "random-nested", "count exact; a subset", "arXiv:1803.03635, section 2")
def random_levels(keep: Array, table: Table, fraction: float, scope: str, levels: int) -> Any:
    """How many survivors each group keeps after some levels of random pruning."""
    counts = {key: len(members) for key, members in groups(table, keep, scope).items()}
    for _ in range(levels):
        counts = {key: count - round(fraction * count) for key, count in counts.items()}
    return counts


@oracle("pruning", "random-layers", "the count of each tensor, exact", "arXiv:2009.08576")
def layer_counts(keep: Array, table: Table) -> dict[str, int]:
    """How many weights of each tensor a mask keeps."""
    sizes = {row["name"]: int(np.prod(row["shape"])) for row in table}
    return {
        row["name"]: int(keep[row["offset"] : row["offset"] + sizes[row["name"]]].sum())
        for row in table
    }


@oracle("pruning", "reinit", "exact", "arXiv:1803.03635, section 2")
@oracle("pruning", "reinit-levels", "exact", "arXiv:1803.03635, section 2")
def masked(keep: Array, weights: Array) -> Array:
    """The sub-network that a mask leaves of some weights."""
    return np.where(keep, weights, 0)


@oracle("perturbation", "none", "exact", FRANKLE)
def none(now: Array, **_: Any) -> Array:
    return now


@oracle("perturbation", "sign", "exact", f"{FRANKLE}, section 5")
def sign(now: Array, signs: Array, magnitudes: Array, at: list[int], **_: Any) -> Array:
    result = now.copy()
    for i in at:
        result[i] = math.copysign(1, signs[i]) * abs(float(magnitudes[i]))
    return result


@oracle("perturbation", "constant", "exact", "arXiv:1905.01067, section 4.1")
def constant(now: Array, signs: Array, table: Table, keep: Array, **_: Any) -> Array:
    result = now.copy()
    for row in table:
        for i in groups([row], keep, "global").get("all", []):
            result[i] = math.copysign(sigma(row), signs[i])
    return result


@oracle("perturbation", "reinit", "exact", "arXiv:1803.03635, section 2")
def reinit(now: Array, fresh: Array, at: list[int], **_: Any) -> Array:
    result = now.copy()
    result[at] = fresh[at]
    return result


@oracle("perturbation", "shuffle", "the multiset of each group, exact", f"{FRANKLE}, section 5")
def shuffle(now: Array, initial: Array, table: Table, keep: Array, group: str, signs: str) -> Any:
    """What each group must hold afterwards, sorted: values, or magnitudes under w_0's signs."""
    held = {}
    for key, members in groups(table, keep, group).items():
        values = [float(now[i]) for i in members]
        held[key] = sorted(map(abs, values)) if signs == "initial-signs" else sorted(values)
    where = {
        "": None,
        "keep-signs": np.sign(now),
        "initial-signs": np.sign(initial),
    }[signs]
    return held, where


@oracle(
    "perturbation", "noise", "mean and variance of each layer within 5 standard errors", FRANKLE
)
def noise(row: dict[str, Any], scale: float) -> tuple[float, float]:
    """Mean and standard deviation of what is added to a layer."""
    return 0.0, scale * sigma(row)


def sigma(row: dict[str, Any]) -> float:
    """√(2 / fan_in), Kaiming's normal initialisation."""
    return math.sqrt(2 / int(np.prod(row["shape"][1:])))
