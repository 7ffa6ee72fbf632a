"""The rules of the health check: what the numbers of a tensor, or of a snapshot, must not show.

Each rule is conservative: it compares with the movement near by, scaled by the updates between
snapshots, and needs far more than noise, schedules or oscillation make. Tensors of few weights, or
stored so coarsely that few of them change at a time, return to a value by chance; those are left
out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.analyze.health.scan import Numbers
from ckptlab.store.format.layout import DEFAULT_KINDS

Array = npt.NDArray[Any]

MOVING = 32
"""Weights that must usually change between snapshots for standing still to mean something."""

MANY = 64
"""Weights of a tensor whose distances mean something."""

INDEPENDENT = 1024
"""Weights of a tensor whose direction means something."""

RARE = 0.1
"""Share of the steps above which something is a habit of the tensor and no damage."""

FEW = 4
"""So many are no habit, however short the series."""

AWAY, JUMP, FOREIGN = 3.0, 8.0, 10.0
"""How many times the movement near by a snapshot is away, a jump is long, a first step goes."""

_NEAR = 3
"""Intervals on either side that tell the movement near by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Symptom:
    """What a rule found: positions of steps, of those the pair to compare exactly, evidence.

    `compare` are positions whose exact distances the evidence needs: those of the first and each
    of the others.
    """

    rule: str
    at: tuple[int, ...]
    evidence: str
    compare: tuple[int, ...] = ()


Rule = Callable[[Numbers, Array, Array], Iterator[Symptom]]


def identical(numbers: Numbers, steps: Array, excused: Array) -> Iterator[Symptom]:
    """Find steps with the same values: neighbours that stood still, and returns to old values."""
    count, changed = len(steps), numbers.changed[1:]
    moved = changed[changed > 0]
    if count < 2:
        return
    if not len(moved):
        if numbers.trainable and not excused.all():
            said = "never changes: all snapshots hold the same values"
            yield Symptom(rule="still", at=tuple(range(count)), evidence=said, compare=(0, 1))
        return
    if np.median(moved) < MOVING:
        return
    still = (changed == 0) & ~excused
    groups = [group for group in _runs(still) if _usual_changes(changed, group) >= MOVING]
    if len(groups) <= max(1, RARE * (count - 1)):
        for first, last in groups:
            at = tuple(range(first, last + 2))
            said = f"the same values, while {int(np.median(moved)):,} weights change usually"
            yield Symptom(rule="identical", at=at, evidence=said, compare=at[:2])
    _, first_seen, which = np.unique(numbers.digest, return_index=True, return_inverse=True)
    # A step that differs from the one before, and whose values were there earlier.
    back = np.flatnonzero((first_seen[which] < np.arange(count)) & (numbers.changed > 0))
    if len(back) <= max(FEW, RARE * count):
        for group in dict.fromkeys(which[back].tolist()):
            same = np.flatnonzero(which == group)
            shown = tuple(int(k) for k in same if k == same[0] or numbers.changed[k] > 0)
            said = "the same values, though they changed in between"
            yield Symptom(rule="repeated", at=shown, evidence=said, compare=shown[:2])


def not_finite(numbers: Numbers, steps: Array, excused: Array) -> Iterator[Symptom]:  # noqa: ARG001
    """Find NaN and infinities."""
    at = np.flatnonzero(numbers.broken)
    if len(at):
        most = int(numbers.broken.max())
        said = f"up to {most:,} of {numbers.size:,} weights are NaN or infinite"
        yield Symptom(rule="not-finite", at=tuple(at.tolist()), evidence=said)


def zero_rows(numbers: Numbers, steps: Array, excused: Array) -> Iterator[Symptom]:  # noqa: ARG001
    """Find rows that became zero, and those that are zero at every step beside others."""
    at = np.flatnonzero(numbers.zero_rows)
    if len(at):
        said = f"up to {int(numbers.zero_rows.max()):,} rows are all zero and were not before"
        yield Symptom(rule="zero-rows", at=tuple(at.tolist()), evidence=said)
    if 0 < numbers.dead_rows < numbers.rows and numbers.kind in DEFAULT_KINDS:
        said = f"{numbers.dead_rows:,} of {numbers.rows:,} rows are all zero at every step"
        yield Symptom(rule="zero-rows", at=tuple(range(len(steps))), evidence=said)


def misplaced(numbers: Numbers, steps: Array, excused: Array) -> Iterator[Symptom]:  # noqa: ARG001
    """Find snapshots away from their neighbours, jumps between two, and a foreign start or end."""
    kept = np.flatnonzero(numbers.broken == 0)
    if numbers.size < MANY or len(kept) < 5:
        return
    path = _Path(numbers.sketch[kept], steps[kept])
    outliers = [*path.outliers()]
    found = [*outliers, *path.jumps({k for _, (k,), _, _ in outliers})]
    if numbers.size >= INDEPENDENT:
        found += path.foreign_ends(np.sqrt(numbers.square[kept]), numbers.size)
    if len(found) <= max(FEW, RARE * len(kept)):
        for rule, at, evidence, compare in found:
            yield Symptom(
                rule=rule,
                at=tuple(int(kept[k]) for k in at),
                evidence=evidence,
                compare=tuple(int(kept[k]) for k in compare),
            )


RULES: tuple[Rule, ...] = (identical, not_finite, zero_rows, misplaced)
"""What is asked of each tensor."""

WHOLE_RULES: tuple[Rule, ...] = (identical, misplaced)
"""What is asked of the whole snapshot."""

_Found = tuple[str, tuple[int, ...], str, tuple[int, ...]]


class _Path:
    """Distances along the snapshots of one tensor, from its sketches."""

    def __init__(self, points: Array, steps: Array) -> None:
        self._points, self._steps = points, steps
        self._moves = np.linalg.norm(np.diff(points, axis=0), axis=1)
        self._spans = np.diff(steps).astype(float)

    def outliers(self) -> Iterator[_Found]:
        """Find steps that are away from both neighbours, which are near each other, or a far one.

        One that is nearer to a far step than to its neighbours needs to be half as much away.
        """
        # Beside the two intervals of a step, those that follow and precede both.
        before = self._usual([*range(-_NEAR, 0), *range(2, _NEAR + 2)])[:-1]
        after = self._usual([*range(-_NEAR - 1, -1), *range(1, _NEAR + 1)])[1:]
        for k, usual in enumerate(np.stack([before, after], axis=1), 1):
            sides = self._moves[k - 1 : k + 1]
            if not (sides > AWAY / 2 * usual).all() or not usual.all():
                continue
            across = np.linalg.norm(self._points[k + 1] - self._points[k - 1])
            far = np.linalg.norm(self._points - self._points[k], axis=1)
            far[max(k - 2, 0) : k + 3] = np.inf
            nearest = int(np.argmin(far))
            # Next to an end, where only one side tells what is usual, twice as much.
            times = (sides / usual).min() / (2 if k in (1, len(self._points) - 2) else 1)
            ratio = f"{times:.1f} times as far from its neighbours as others near by"
            returns = across <= sides.min() / 2
            if far[nearest] <= sides.min() / 2 and (returns or times > AWAY):
                said = f"{ratio}, and nearer to step {self._steps[nearest]} than to them"
                yield "outlier", (k,), said, (k, k - 1, k + 1, nearest)
            elif returns and times >= AWAY:
                yield "outlier", (k,), ratio, (k, k - 1, k + 1)

    def jumps(self, outliers: set[int]) -> Iterator[_Found]:
        """Find intervals over which the path goes much farther than before and after."""
        usual = self._usual([*range(-_NEAR, 0), *range(1, _NEAR + 1)])
        for i in range(1, len(self._moves) - 1):
            if 0 < JUMP * usual[i] < self._moves[i] and not outliers & {i, i + 1}:
                said = f"{self._moves[i] / usual[i]:.1f} times as far apart as others near by"
                yield "jump", (i, i + 1), said, (i, i + 1)

    def foreign_ends(self, norms: Array, size: int) -> Iterator[_Found]:
        """Find a first or last snapshot that the others do not descend from, or lead to.

        Two draws of the same initialisation are orthogonal; training keeps a direction.
        """
        for i, end, other in ((0, 0, 1), (len(self._moves) - 1, -1, -2)):
            inwards = range(1, 1 + 2 * _NEAR) if i == 0 else range(-2 * _NEAR, 0)
            usual, apart = self._usual([*inwards])[i], norms[end] ** 2 + norms[other] ** 2
            cosine = (apart - self._moves[i] ** 2) / max(2 * norms[end] * norms[other], 1e-300)
            # The sketch tells a cosine to about one by the root of its length.
            slack = 4 * (1 / np.sqrt(size) + 1 / np.sqrt(self._points.shape[1]))
            alike = norms[other] / 2 < norms[end] < 2 * norms[other]
            if usual and alike and abs(cosine) < slack and self._moves[i] > FOREIGN * usual:
                at = (0, 1) if i == 0 else (i, i + 1)
                said = f"{self._moves[i] / usual:.0f} times as far apart as the next ones"
                yield "foreign", at, said, at

    def _usual(self, offsets: list[int]) -> Array:
        """Return how far each interval may go, by those at some offsets; 0 if there are too few.

        Over L times the updates, noise goes √L times as far and a direction L times: the more of
        the two counts. The largest of several is left out, since damage may come in pairs.
        """
        near = np.arange(len(self._moves))[:, None] + offsets
        known = (near >= 0) & (near < len(self._moves))
        near = np.where(known, near, 0)
        ratios = self._spans[:, None] / self._spans[near]
        moves = self._moves[near] * np.maximum(ratios, np.sqrt(ratios))
        moves = np.sort(np.where(known, moves, -np.inf), axis=1)
        count = known.sum(axis=1)
        return np.where(count > 2, moves[:, -2], np.where(count == 2, moves[:, -1], 0.0))


def _runs(flags: Array) -> list[tuple[int, int]]:
    """Return the first and last position of each run of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]


def _usual_changes(changed: Array, group: tuple[int, int]) -> float:
    """Return how many weights usually change beside a run of intervals in which none does.

    On the quieter side: where the learning rate falls towards a restart, 16-bit weights rest.
    """
    first, last = group
    sides = (changed[max(first - 3, 0) : first], changed[last + 1 : last + 4])
    return min((float(np.median(side)) for side in sides if len(side)), default=0.0)
