"""Sections of perturbation studies: bars, curves, and accuracy against the effective deviation.

`none` among the
perturbations is what the others are compared with.

References
----------
Frankle, Schwab & Morcos (2020), arXiv:2002.10365, section 5, figures 4 to 8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.experiments.results.regression import fit_line
from ckptlab.report.html.bars_and_scatter import BarChart, Bars, Points, ScatterChart
from ckptlab.report.html.charts import Axis, Column, LineChart
from ckptlab.report.html.numbers import described, number
from ckptlab.report.html.outline import Section
from ckptlab.report.studies.results import MEANS, Cells, span
from ckptlab.report.theme import COLOURS

Array = npt.NDArray[Any]

NONE = "none"

FAMILIES: dict[str, str] = {
    "sign": "signs and magnitudes",
    "constant": "signs alone",
    "shuffle": "shuffles",
    "noise": "noise",
    "reinit": "fresh initialisation",
}
"""Perturbations by the name they begin with, and what they are together."""


def perturbation_sections(cells: Cells) -> list[Section]:
    """Draw what perturbations do to accuracy.

    Parameters
    ----------
    cells : Cells
        Of a study of the kind ``perturb``.

    Returns
    -------
    list of Section
        Bars (the paper's figures 4 to 7, at one density), curves over densities, and accuracy
        against the effective standard deviation (figure 8), as far as there are results.
    """
    rewinds, levels = cells.values("rewind"), cells.values("level")
    choice = cells.choice() if len(levels) > 1 else None
    alone = levels[0] if len(levels) == 1 else None
    only = "" if alone is None else f", with {cells.level_name(alone)} of the prunable weights kept"
    sections = []
    if cells.has("accuracy"):
        each = cells.reduced("accuracy")
        # No accuracy lies beyond 1, wherever a deviation would end.
        reach = np.clip(_around(each["mean"].values, each["std"].values), 0, 1)
        ends = span([cells.results["accuracy"].values, reach])
        sections.append(
            Section(
                key="bars",
                title="Accuracy after each perturbation",
                text=f"Perturbed at a step, then trained to the end{only}. Ticks are means over "
                "replicates with the standard deviation of the sample, dots the replicates.",
                charts=tuple(_bars(cells, rewind, ends) for rewind in rewinds),
                choice=choice,
            )
        )
    curves = tuple(
        chart for rewind in rewinds if len(levels) > 1 and (chart := _curves(cells, rewind))
    )
    if curves:
        sections.append(
            Section(
                key="curves",
                title="Accuracy against density",
                text=MEANS,
                charts=curves,
            )
        )
    if cells.has("effective_std"):
        sections.append(
            Section(
                key="deviation",
                title="Accuracy against the effective standard deviation",
                text="How far a perturbation moves the surviving weights, std(w′ − w), and what "
                f"it costs{only}. Each point is a mean over replicates; the line is that of least "
                "squares through all but the unperturbed network, r is Pearson's correlation.",
                charts=tuple(_scatter(cells, rewind) for rewind in rewinds),
                choice=choice,
            )
        )
    return sections


def _bars(cells: Cells, rewind: Any, ends: tuple[float, float]) -> BarChart:
    kinds = cells.values("perturbation")
    panels = []
    for position, level in enumerate(cells.values("level")):
        at = {"rewind": rewind, "level": level}
        y, spread, count = _over_kinds(cells, "accuracy", at)
        single = cells.results["accuracy"].sel(_known(at))
        base = y[kinds.index(NONE)] if NONE in kinds else np.nan
        bars = Bars(
            rows=tuple(map(_named, kinds)),
            colours=tuple(_family(kind) for kind in kinds),
            y=y,
            spread=spread,
            count=count,
            single=single.transpose("perturbation", ...).values.reshape(len(kinds), -1),
            base=float(base) if np.isfinite(base) else None,
        )
        panels.append((position, bars))
    bare = any(bars.base is None for _, bars in panels)
    return BarChart(
        key=f"bars-{rewind}",
        title=f"At step {rewind}",
        unit="per cent",
        about="Bars begin at the accuracy of the same sub-network without a perturbation."
        if NONE in kinds
        else "",
        summary=" ".join(
            _told(cells, level, bars)
            for level, bars in zip(cells.values("level"), (b for _, b in panels), strict=True)
        ),
        note=cells.missing("accuracy", {"rewind": rewind}),
        panels=tuple(panels),
        axis=Axis(name="test accuracy [per cent]", step=False, percent=True),
        ends=(min(0.0, ends[0]), ends[1]) if bare else ends,
        base="unperturbed",
        table=cells.table("accuracy", {"rewind": rewind}),
    )


def _curves(cells: Cells, rewind: Any) -> LineChart | None:
    lines = [
        cells.line(
            "accuracy",
            "level",
            {"rewind": rewind, "perturbation": kind},
            name=_named(kind),
            tone="ink" if kind == NONE else "",
            style=k // len(COLOURS),
        )
        for k, kind in enumerate(cells.values("perturbation"))
    ]
    drawn = tuple(line for line in lines if line is not None)
    if not drawn:
        return None
    return LineChart(
        key=f"curves-{rewind}",
        title=f"At step {rewind}",
        unit="per cent",
        about="Each line another perturbation of the same sub-networks.",
        summary=described(drawn, percent=True),
        note=cells.missing("accuracy", {"rewind": rewind}),
        lines=drawn,
        axis=cells.density_axis(),
        percent=True,
        table=cells.table("accuracy", {"rewind": rewind}),
        in_legend=False,
        tall=True,
    )


def _scatter(cells: Cells, rewind: Any) -> ScatterChart:
    kinds = cells.values("perturbation")
    panels = []
    for position, level in enumerate(cells.values("level")):
        at = {"rewind": rewind, "level": level}
        y, y_spread, count = _over_kinds(cells, "accuracy", at)
        x, x_spread, _ = _over_kinds(cells, "effective_std", at)
        # Nothing was changed: that is no measurement, it is so.
        x = np.where([kind == NONE for kind in kinds], 0.0, x)
        counted = np.array([kind != NONE for kind in kinds])
        panels.append(
            (
                position,
                Points(
                    names=tuple(map(_named, kinds)),
                    groups=tuple(map(_family, kinds)),
                    x=x,
                    y=y,
                    x_spread=x_spread,
                    y_spread=y_spread,
                    count=count,
                    fit=fit_line(x[counted], y[counted]),
                ),
            )
        )
    points = [points for _, points in panels]
    return ScatterChart(
        key=f"deviation-{rewind}",
        title=f"At step {rewind}",
        unit="test accuracy, per cent",
        about="Unfilled: not perturbed.",
        summary=" ".join(
            f"{cells.level_name(level)}: {_fit_told(part)}."
            for level, part in zip(cells.values("level"), points, strict=True)
        ),
        note=cells.missing("accuracy", {"rewind": rewind}),
        panels=tuple(panels),
        groups=(*FAMILIES.values(), "others"),
        axis=Axis(name="effective standard deviation [weight]", step=False),
        x_ends=span([_around(part.x, part.x_spread) for part in points]),
        y_ends=span([*(_around(part.y, part.y_spread) for part in points), *map(_fitted, points)]),
        percent=True,
        table=_scatter_table(cells, rewind),
        tall=True,
    )


def _around(mean: Array, spread: Array) -> Array:
    """Return where error bars end."""
    reach = np.nan_to_num(spread)
    return np.concatenate([mean - reach, mean + reach])


def _fitted(points: Points) -> Array:
    """Return the ends of the line of least squares, if there is one."""
    if points.fit is None:
        return np.array([])
    x = points.x[np.isfinite(points.x) & (np.array(points.groups) >= 0)]
    return points.fit.intercept + points.fit.slope * np.array([x.min(), x.max()])


def _scatter_table(cells: Cells, rewind: Any) -> tuple[Column, ...]:
    """Put accuracy and deviation side by side, a row for each cell that was planned."""
    accuracy = cells.table("accuracy", {"rewind": rewind})
    deviation = cells.table("effective_std", {"rewind": rewind})
    taken = {column.name for column in accuracy}
    return (*accuracy, *(column for column in deviation if column.name not in taken))


def _over_kinds(cells: Cells, name: str, at: dict[str, Any]) -> tuple[Any, Any, Any]:
    reduced = cells.reduced(name).sel(_known(at))
    return tuple(reduced[part].values for part in ("mean", "std", "count"))  # type: ignore[return-value]


def _known(at: dict[str, Any]) -> dict[str, Any]:
    return {dim: value for dim, value in at.items() if value is not None}


def _named(kind: str) -> str:
    return "unperturbed" if kind == NONE else kind.replace(",", ", ")


def _family(kind: str) -> int:
    """Return the position of a perturbation's family; -1 of none, behind all if unknown."""
    if kind == NONE:
        return -1
    name = kind.partition(":")[0]
    return list(FAMILIES).index(name) if name in FAMILIES else len(FAMILIES)


def _told(cells: Cells, level: Any, bars: Bars) -> str:
    parts = [
        f"{name} {number(float(y), percent=True)}"
        for name, y in zip(bars.rows, bars.y, strict=True)
        if np.isfinite(y)
    ]
    return f"{cells.level_name(level)}: {', '.join(parts)}." if parts else ""


def _fit_told(points: Points) -> str:
    if points.fit is None:
        return "too few points for a line"
    return f"r = {points.fit.r:.2f} over {points.fit.count} points"
