"""Draw perturbation studies: bars, curves over densities, and accuracy against effective deviation.

The unperturbed networks, `NONE`, are the baseline. After Frankle, Schwab & Morcos (2020),
arXiv:2002.10365, section 5, figures 4 to 8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.experiments.results.regression import fit_line
from ckptlab.report.html.bars_and_scatter import BarChart, Bars, Points, ScatterChart
from ckptlab.report.html.charts import LineChart, TableColumn, XAxis
from ckptlab.report.html.numbers import describe_lines, format_number
from ckptlab.report.html.outline import Section
from ckptlab.report.studies.study_results import MEANS, StudyResults, span
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
"""Families of perturbations by the first part of their names."""


def perturbation_sections(study: StudyResults) -> list[Section]:
    """Draw accuracy as bars, over densities, and against the effective standard deviation."""
    rewinds, levels = study.values("rewind"), study.values("level")
    choice = study.choice() if len(levels) > 1 else None
    alone = levels[0] if len(levels) == 1 else None
    only = "" if alone is None else f", with {study.level_name(alone)} of the prunable weights kept"
    sections = []
    if study.has("accuracy"):
        each = study.reduced("accuracy")
        # Error bars may reach beyond 1, accuracies do not.
        reach = np.clip(_around(each["mean"].values, each["std"].values), 0, 1)
        ends = span([study.results["accuracy"].values, reach])
        sections.append(
            Section(
                key="bars",
                title="Accuracy after each perturbation",
                text=f"Perturbed at a step, then trained to the end{only}. Ticks are means over "
                "replicates ± the standard deviation of the sample (n − 1), dots are replicates.",
                charts=tuple(_bars(study, rewind, ends) for rewind in rewinds),
                choice=choice,
            )
        )
    curves = tuple(
        chart for rewind in rewinds if len(levels) > 1 and (chart := _curves(study, rewind))
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
    if study.has("effective_std"):
        sections.append(
            Section(
                key="deviation",
                title="Accuracy against the effective standard deviation",
                text="How far a perturbation moves the surviving weights, std(w′ − w), and what "
                f"it costs{only}. Each point is a mean over replicates; the line is that of least "
                "squares through all but the unperturbed network, r is Pearson's correlation.",
                charts=tuple(_scatter(study, rewind) for rewind in rewinds),
                choice=choice,
            )
        )
    return sections


def _bars(study: StudyResults, rewind: Any, ends: tuple[float, float]) -> BarChart:
    kinds = study.values("perturbation")
    panels = []
    for position, level in enumerate(study.values("level")):
        at = {"rewind": rewind, "level": level}
        y, spread, count = _over_kinds(study, "accuracy", at)
        single = study.results["accuracy"].sel(_known(at))
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
            _told(study, level, bars)
            for level, bars in zip(study.values("level"), (b for _, b in panels), strict=True)
        ),
        note=study.missing("accuracy", {"rewind": rewind}),
        panels=tuple(panels),
        axis=XAxis(name="test accuracy [per cent]", step=False, percent=True),
        ends=(min(0.0, ends[0]), ends[1]) if bare else ends,
        base="unperturbed",
        table=study.table("accuracy", {"rewind": rewind}),
    )


def _curves(study: StudyResults, rewind: Any) -> LineChart | None:
    lines = [
        study.line(
            "accuracy",
            "level",
            {"rewind": rewind, "perturbation": kind},
            name=_named(kind),
            tone="ink" if kind == NONE else "",
            style=k // len(COLOURS),
        )
        for k, kind in enumerate(study.values("perturbation"))
    ]
    drawn = tuple(line for line in lines if line is not None)
    if not drawn:
        return None
    return LineChart(
        key=f"curves-{rewind}",
        title=f"At step {rewind}",
        unit="per cent",
        about="Each line another perturbation of the same sub-networks.",
        summary=describe_lines(drawn, percent=True),
        note=study.missing("accuracy", {"rewind": rewind}),
        lines=drawn,
        axis=study.density_axis(),
        percent=True,
        table=study.table("accuracy", {"rewind": rewind}),
        in_legend=False,
        tall=True,
    )


def _scatter(study: StudyResults, rewind: Any) -> ScatterChart:
    kinds = study.values("perturbation")
    panels = []
    for position, level in enumerate(study.values("level")):
        at = {"rewind": rewind, "level": level}
        y, y_spread, count = _over_kinds(study, "accuracy", at)
        x, x_spread, _ = _over_kinds(study, "effective_std", at)
        # The baseline moved by nothing, whether measured or not.
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
            f"{study.level_name(level)}: {_fit_told(part)}."
            for level, part in zip(study.values("level"), points, strict=True)
        ),
        note=study.missing("accuracy", {"rewind": rewind}),
        panels=tuple(panels),
        groups=(*FAMILIES.values(), "others"),
        axis=XAxis(name="effective standard deviation [weight]", step=False),
        x_ends=span([_around(part.x, part.x_spread) for part in points]),
        y_ends=span([*(_around(part.y, part.y_spread) for part in points), *map(_fitted, points)]),
        percent=True,
        table=_scatter_table(study, rewind),
        tall=True,
    )


def _around(mean: Array, spread: Array) -> Array:
    """Return both ends of the error bars."""
    reach = np.nan_to_num(spread)
    return np.concatenate([mean - reach, mean + reach])


def _fitted(points: Points) -> Array:
    """Return the ends of the fitted line, if there is one."""
    if points.fit is None:
        return np.array([])
    x = points.x[np.isfinite(points.x) & (np.array(points.groups) >= 0)]
    return points.fit.intercept + points.fit.slope * np.array([x.min(), x.max()])


def _scatter_table(study: StudyResults, rewind: Any) -> tuple[TableColumn, ...]:
    """Tabulate accuracy and deviation side by side, a row for each planned cell."""
    accuracy = study.table("accuracy", {"rewind": rewind})
    deviation = study.table("effective_std", {"rewind": rewind})
    taken = {column.name for column in accuracy}
    return (*accuracy, *(column for column in deviation if column.name not in taken))


def _over_kinds(study: StudyResults, name: str, at: dict[str, Any]) -> tuple[Any, Any, Any]:
    reduced = study.reduced(name).sel(_known(at))
    return tuple(reduced[part].values for part in ("mean", "std", "count"))  # type: ignore[return-value]


def _known(at: dict[str, Any]) -> dict[str, Any]:
    return {dim: value for dim, value in at.items() if value is not None}


def _named(kind: str) -> str:
    return "unperturbed" if kind == NONE else kind.replace(",", ", ")


def _family(kind: str) -> int:
    """Return the position of a perturbation's family: -1 for `NONE`, after the last if unknown."""
    if kind == NONE:
        return -1
    name = kind.partition(":")[0]
    return list(FAMILIES).index(name) if name in FAMILIES else len(FAMILIES)


def _told(study: StudyResults, level: Any, bars: Bars) -> str:
    parts = [
        f"{name} {format_number(float(y), percent=True)}"
        for name, y in zip(bars.rows, bars.y, strict=True)
        if np.isfinite(y)
    ]
    return f"{study.level_name(level)}: {', '.join(parts)}." if parts else ""


def _fit_told(points: Points) -> str:
    if points.fit is None:
        return "too few points for a line"
    return f"r = {points.fit.r:.2f} over {points.fit.count} points"
