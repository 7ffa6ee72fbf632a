"""Look at the health of a series: read it once, apply the rules, compare what they find exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ckptlab.analyze.health.findings import Health, HealthFinding
from ckptlab.analyze.health.rules import FEW, RARE, RULES, WHOLE_RULES, Symptom
from ckptlab.analyze.health.scan import scan
from ckptlab.analyze.health.series import Series, open_series
from ckptlab.errors import StepError
from ckptlab.record.memory import parse_memory

if TYPE_CHECKING:
    from ckptlab.record.convert.find_checkpoints import Choice

Array = npt.NDArray[Any]

_SAME = ("identical", "repeated", "still")
_MOVED = ("outlier", "jump", "foreign")
_STRETCH = 2**20


def check_health(
    recording: Any,
    *,
    choice: Choice | None = None,
    memory: int | str = "1GiB",
    progress: Callable[[int, int], None] | None = None,
) -> Health:
    """Find what is wrong with a series of snapshots: copies, foreign steps, NaN, dead rows.

    Parameters
    ----------
    recording : Run, str or path-like
        A run, its path, or a folder of checkpoints.
    choice : Choice, optional
        Which checkpoints of a folder, and which of their tensors.
    memory : int or str
        What may be held at a time beside the interpreter, such as ``"1GiB"``.
    progress : callable, optional
        Called with the weights looked at and all of them.

    Returns
    -------
    Health
        Findings, each with tensors, steps and evidence; none for a healthy series.

    Raises
    ------
    StepError
        If it holds no snapshot yet.
    StoreError
        If there is no run and no folder.
    DataError
        If the checkpoints in a folder cannot be read, or are not of one model.
    """
    return check_series(open_series(recording, choice), parse_memory(memory), progress)


def check_series(
    series: Series, memory: int, progress: Callable[[int, int], None] | None = None
) -> Health:
    """Look at the health of a series that is open; see `check_health`."""
    steps = series.steps
    if not len(steps):
        raise StepError(f"{series.path} holds no snapshot yet; record or import some first")
    places = {tensor.name: tensor for tensor in series.tensors}
    found: list[tuple[str, Symptom]] = []
    for numbers in scan(series, memory, progress):
        for rule in RULES if numbers.name else WHOLE_RULES:
            found += [(numbers.name, symptom) for symptom in rule(numbers, steps, series.excused)]
    if series.pruned:
        found = [(name, s) for name, s in found if s.rule != "zero-rows"]
    kept = _unexplained(found, len(steps))
    findings = list(series.findings)
    for names, symptom in _grouped(kept):
        rows = [places[name].stretch for name in names] or [
            slice(0, series.tensors[-1].stretch.stop)
        ]
        evidence = _compared(series, rows, symptom)
        if evidence is not None:
            at = tuple(int(steps[k]) for k in symptom.at)
            findings.append(
                HealthFinding(rule=symptom.rule, steps=at, tensors=names, evidence=evidence)
            )
    return Health(
        path=series.path,
        steps=len(steps),
        tensors=len(series.tensors),
        first_step=int(steps[0]),
        last_step=int(steps[-1]),
        findings=tuple(sorted(findings, key=lambda one: (one.steps[0], one.rule))),
    )


def _unexplained(found: Sequence[tuple[str, Symptom]], count: int) -> list[tuple[str, Symptom]]:
    """Leave out what another symptom says already: of the whole snapshot, or of a copied step."""
    few = max(FEW, RARE * count)
    whole = [s for name, s in found if not name]
    causes: dict[str, set[int]] = {}
    for name, symptom in found:
        brief = symptom.rule == "zero-rows" and len(symptom.at) <= few
        if symptom.rule in ("identical", "repeated") or brief:
            causes.setdefault(name, set()).update(symptom.at)
    anywhere = set().union(*causes.values())

    def explained(name: str, symptom: Symptom) -> bool:
        family = _SAME if symptom.rule in _SAME else _MOVED if symptom.rule in _MOVED else ()
        at = set(symptom.at)
        if name and any(s.rule in family and at <= {*s.at} for s in whole):
            return True
        if family is not _MOVED:
            return False
        return bool(at & (causes.get(name, set()) | causes.get("", set()) if name else anywhere))

    return [(name, symptom) for name, symptom in found if not explained(name, symptom)]


def _grouped(
    symptoms: Iterable[tuple[str, Symptom]],
) -> list[tuple[tuple[str, ...], Symptom]]:
    """Put together what several tensors show at the same steps."""
    groups: dict[tuple[str, tuple[int, ...], bool], list[tuple[str, Symptom]]] = {}
    for name, symptom in symptoms:
        groups.setdefault((symptom.rule, symptom.at, bool(name)), []).append((name, symptom))
    return [(tuple(name for name, _ in group if name), group[0][1]) for group in groups.values()]


def _compared(series: Series, rows: Sequence[slice], symptom: Symptom) -> str | None:
    """Return the evidence with exact distances; None where they tell of no damage."""
    if not symptom.compare:
        return symptom.evidence
    first, *others = symptom.compare
    sums = [_difference(series, rows, first, other) for other in others]
    at = series.steps
    if symptom.rule in _SAME:
        zeros = int(sums[0][3])
        signs = f"; {zeros:,} zeros differ in sign" if zeros else ""
        return symptom.evidence + signs
    if symptom.rule == "foreign":
        _, square, product, _ = sums[0]
        size = sum(part.stop - part.start for part in rows)
        cosine = product / np.sqrt(square[0] * square[1])
        if abs(cosine) > 5 / np.sqrt(size):
            return None
        return (
            f"{symptom.evidence}, at a cosine of {cosine:.4f}: one does not descend from the other"
        )
    told = ", ".join(
        f"{np.sqrt(distance):.3g} from step {at[other]}"
        for (distance, *_), other in zip(sums, others, strict=True)
    )
    return f"{symptom.evidence}: step {at[first]} is {told}"


def _difference(
    series: Series, rows: Sequence[slice], a: int, b: int
) -> tuple[float, tuple[float, float], float, int]:
    """Return Σ(x−y)², (Σx², Σy²), Σxy, and how many zeros differ in sign, of two snapshots."""
    total, squares, product, zeros = 0.0, np.zeros(2), 0.0, 0
    for part in rows:
        for start in range(part.start, part.stop, _STRETCH):
            stretch = slice(start, min(start + _STRETCH, part.stop))
            x, y = (series.read(stretch, slice(k, k + 1))[0].astype(np.float64) for k in (a, b))
            with np.errstate(invalid="ignore"):  # ∞ − ∞, of runs that diverged
                total += float(np.sum((x - y) ** 2))
            squares += [float(x @ x), float(y @ y)]
            product += float(x @ y)
            zeros += int(((x == 0) & (y == 0) & (np.signbit(x) != np.signbit(y))).sum())
    return total, (squares[0], squares[1]), product, zeros
