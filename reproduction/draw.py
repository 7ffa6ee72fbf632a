"""Draw committed rows as SVG, in the report's colours; the same rows give the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler

mpl.use("svg")
from matplotlib import pyplot as plt

from ckptlab.experiments.results.regression import fit_line
from ckptlab.report.theme import COLOURS
from reproduction.evidence import Evidence
from reproduction.rows import smooth

STYLE: Any = {
    "svg.hashsalt": "ckptlab",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "axes.prop_cycle": cycler(color=list(COLOURS)),
}


def draw_all(evidence: Evidence, folder: Path) -> list[tuple[str, str]]:
    """Draw every figure that has rows; return names of files and what they show."""
    drawn = []
    for name, draw, told in _DRAWINGS:
        path = folder / f"{name}.svg"
        if draw(evidence, path):
            drawn.append((path.name, told))
        else:
            path.unlink(missing_ok=True)
    return drawn


@contextmanager
def _figure(path: Path, panels: int = 1, width: float = 4.6) -> Iterator[Any]:
    columns = min(panels, 3)
    lines = -(-panels // columns)
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            lines,
            columns,
            figsize=(width if panels == 1 else 3 * columns, 2.9 * lines),
            squeeze=False,
            layout="constrained",
        )
        yield axes.ravel()
        for spare in axes.ravel()[panels:]:
            spare.set_visible(False)
        # A constant date, or every drawing would differ.
        figure.savefig(path, metadata={"Date": None, "Creator": "ckptlab"})
        plt.close(figure)
    text = path.read_text(encoding="utf-8")
    path.write_text("\n".join(map(str.rstrip, text.splitlines())) + "\n", encoding="utf-8")


def _line(axis: Any, cells: Sequence[tuple[float, Sequence[float]]], **look: Any) -> None:
    """Draw means over seeds with error bars of the sample's deviation."""
    cells = sorted((x, values) for x, values in cells if len(values))
    if not cells:
        return
    x = [x for x, _ in cells]
    mean = [float(np.mean(values)) for _, values in cells]
    spread = [float(np.std(v, ddof=1)) if len(v) > 1 else 0.0 for _, v in cells]
    axis.errorbar(x, mean, spread, marker="o", markersize=3, capsize=2, linewidth=1.3, **look)


def _dims(evidence: Evidence, figure: str, dim: str) -> list[Any]:
    """Return the coordinates that rows have, in the study's order."""
    there = dict.fromkeys(row["at"][dim] for row in evidence.rows(figure) if dim in row["at"])
    planned = evidence.files.get(figure, {}).get("dims", {}).get(dim, [])
    return [*(at for at in planned if at in there), *(at for at in there if at not in planned)]


def _percent(values: dict[int, float]) -> list[float]:
    return [100 * value for value in values.values()]


def density(evidence: Evidence, path: Path) -> bool:
    """Figure 1: accuracy against density by rewind point."""
    series = [("fig1-cifar", "imp", k, f"k = {k:,}", "-") for k in (0, 100, 500, 1000)]
    series += [("fig1-cifar-controls", w, 500, f"{w}, k = 500", "--") for w in ("random", "reinit")]
    if not evidence.rows("fig1-cifar"):
        return False
    with _figure(path) as (axis,):
        for figure, way, rewind, label, style in series:
            cells = []
            for level in range(4):
                at = {"pruning": way, "rewind": rewind, "level": level}
                kept = evidence.number(figure, "density", **at)
                if kept:
                    accuracy = _percent(evidence.number(figure, "accuracy", **at))
                    cells.append((100 * float(np.mean(list(kept.values()))), accuracy))
            if len(cells) > 1:
                _line(axis, cells, label=label, linestyle=style)
        axis.set_xscale("log")
        ticks = [100, 51.2, 26.2, 13.4]
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
        axis.invert_xaxis()
        axis.set(xlabel="prunable weights kept [per cent]", ylabel="test accuracy [per cent]")
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    return True


PANELS = (
    ("eval_accuracy", "test accuracy [per cent]", 100),
    ("eval_loss", "test loss [nats]", 1),
    ("weight_magnitude", "mean |w|", 1),
    ("sign_flips_init", "signs that differ from step 0 [per cent]", 100),
    ("gradient_norm", "gradient norm", 1),
    ("weight_distance_init", "‖w − w₀‖", 1),
    ("weight_distance_final", "‖w − w_T‖", 1),
    ("cosine_init", "cos(w, w₀)", 1),
    ("cosine_final", "cos(w, w_T)", 1),
)


def telemetry(figure: str) -> Any:
    """Figure 3 at a scale: a panel a quantity, a band of the deviation over seeds."""

    def draw(evidence: Evidence, path: Path) -> bool:
        if not evidence.rows(figure):
            return False
        with _figure(path, len(PANELS)) as axes:
            for axis, (name, label, scale) in zip(axes, PANELS, strict=True):
                _band(axis, evidence.values(figure, "telemetry", name), scale)
                axis.set(xlabel="step", ylabel=label)
                axis.set_xscale("symlog", linthresh=1)
        return True

    return draw


def _band(axis: Any, curves: dict[int, Any], scale: float = 1) -> None:
    if not curves:
        return
    shared = sorted(set.intersection(*(set(c["step"]) for c in curves.values())))
    values = scale * np.array(
        [[smooth(c)[c["step"].index(s)] for s in shared] for c in curves.values()]
    )
    mean = values.mean(0)
    axis.plot(shared, mean, linewidth=1.3)
    if len(values) > 1:
        spread = values.std(0, ddof=1)
        axis.fill_between(shared, mean - spread, mean + spread, alpha=0.25, linewidth=0)


def bars(figures: Sequence[str]) -> Any:
    """Figures 4 to 7: accuracy of each perturbation."""

    def draw(evidence: Evidence, path: Path) -> bool:
        kinds = list(dict.fromkeys(k for f in figures for k in _dims(evidence, f, "perturbation")))
        if not kinds:
            return False
        with _figure(path, width=5.6) as (axis,):
            rows = [_percent(_joined(evidence, figures, k, 2)) for k in kinds]
            place = [i for i, values in enumerate(rows) if values]
            found = [values for values in rows if values]
            mean = [np.mean(v) for v in found]
            spread = [np.std(v, ddof=1) if len(v) > 1 else 0 for v in found]
            axis.errorbar(mean, place, xerr=spread, fmt="o", markersize=4)
            for y, values in zip(place, found, strict=True):
                axis.plot(values, [y] * len(values), "|", color="#888888", markersize=5)
            axis.set_yticks(range(len(kinds)), kinds)
            axis.set_ylim(len(kinds) - 0.5, -0.5)
            axis.set(xlabel="test accuracy [per cent], 26.2 % of the weights kept")
        return True

    return draw


def _joined(evidence: Evidence, figures: Sequence[str], kind: str, level: int) -> dict[int, float]:
    found: dict[int, float] = {}
    for figure in figures:
        at = {"perturbation": kind, "rewind": 500, "level": level}
        found |= evidence.number(figure, "accuracy", **at)
    return found


def deviation(evidence: Evidence, path: Path) -> bool:
    """Figure 8: accuracy against the effective standard deviation."""
    kinds = [k for k in _dims(evidence, "fig8-cifar", "perturbation") if k != "none"]
    points = []
    for kind in kinds:
        at = {"perturbation": kind, "rewind": 500, "level": 2}
        moved = evidence.number("fig8-cifar", "effective_std", **at)
        accuracy = evidence.number("fig8-cifar", "accuracy", **at)
        if moved and accuracy:
            points.append((kind, np.mean(list(moved.values())), np.mean(_percent(accuracy))))
    if not points:
        return False
    with _figure(path, width=6.6) as (axis,):
        # Numbers, named beside the plot: names would lie over each other.
        for number, (kind, x, y) in enumerate(points, 1):
            look = {"marker": f"${number}$", "markersize": 4 + 3 * (number > 9), "linewidth": 0}
            axis.plot(x, y, color=COLOURS[0], label=kind, **look)
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=7)
        fit = fit_line(np.array([p[1] for p in points]), np.array([p[2] for p in points]))
        if fit is not None:
            ends = np.array(axis.get_xlim())
            axis.plot(ends, fit.intercept + fit.slope * ends, "--", color="#888888", linewidth=1)
            axis.set_title(f"r = {fit.r:.2f}, {fit.count} perturbations", fontsize=9)
        axis.set(xlabel="effective standard deviation", ylabel="test accuracy [per cent]")
    return True


def lengths(*figures: str) -> Any:
    """Figures 9 and 10: accuracy against the length of pre-training, at 26.2 %."""

    def draw(evidence: Evidence, path: Path) -> bool:
        tasks = dict.fromkeys(t for figure in figures for t in _dims(evidence, figure, "task"))
        if not tasks:
            return False
        with _figure(path) as (axis,):
            for task in tasks:
                cells = [
                    (n, _percent(evidence.number(figure, "accuracy", task=task, length=n, level=2)))
                    for figure in figures
                    for n in _dims(evidence, figure, "length")
                ]
                _line(axis, cells, label=task)
            axis.set(xlabel="steps of pre-training", ylabel="test accuracy [per cent]")
            if axis.get_legend_handles_labels()[0]:
                axis.legend()
        return True

    return draw


def instability(evidence: Evidence, path: Path) -> bool:
    """Draw the instability of children by the step at which they part."""
    if not evidence.rows("instability-cifar"):
        return False
    with _figure(path) as (axis,):
        for level, label in ((0, "dense"), (2, "26.2 % of the weights")):
            cells = []
            for k in _dims(evidence, "instability-cifar", "rewind"):
                rows = evidence.rows("instability-cifar", rewind=k, level=level)
                cells.append((k, [100 * row["values"]["instability"] for row in rows]))
            _line(axis, cells, label=label)
        axis.axhline(2, color="#888888", linestyle="--", linewidth=1)
        axis.set(xlabel="step at which the children part", ylabel="instability [per cent]")
        axis.legend()
    return True


def deficit(evidence: Evidence, path: Path) -> bool:
    """Draw accuracy by the length of the deficit."""
    figure = "critical_period-cifar"
    if not evidence.rows(figure):
        return False
    with _figure(path) as (axis,):
        cells = [
            (n, _percent(evidence.number(figure, "accuracy", duration=n)))
            for n in _dims(evidence, figure, "duration")
        ]
        _line(axis, cells)
        axis.set(xlabel="steps on blurred images", ylabel="test accuracy [per cent]")
    return True


def curvature(evidence: Evidence, path: Path) -> bool:
    """Draw the gradient's share in the top subspace, its overlap, and the Fisher trace."""
    figure = "curvature-cifar"
    panels = (
        ("gradient-subspace", "gradient_share", "share of the gradient in the top 10"),
        ("gradient-subspace", "overlap_last", "overlap with the last subspace"),
        ("fisher-trace", "fisher_trace", "Fisher trace"),
    )
    if not evidence.rows(figure):
        return False
    with _figure(path, 3) as axes:
        for axis, (metric, name, label) in zip(axes, panels, strict=True):
            _band(axis, evidence.values(figure, metric, name))
            axis.set(xlabel="step", ylabel=label)
            axis.set_xscale("symlog", linthresh=1)
    return True


_DRAWINGS = (
    ("fig1", density, "Figure 1: accuracy against density by rewind point"),
    ("fig3-early", telemetry("fig3-early"), "Figure 3: ResNet-20 of width 16, whole images"),
    ("fig3-cifar", telemetry("fig3-cifar"), "Figure 3 at the scale of the other figures"),
    ("fig4", bars(["fig4-cifar"]), "Figure 4: signs and magnitudes"),
    ("fig5-6", bars(["fig5-cifar", "fig6-cifar"]), "Figures 5 and 6: shuffles"),
    ("fig7", bars(["fig7-cifar"]), "Figure 7: noise"),
    ("fig8", deviation, "Figure 8: accuracy against the effective standard deviation"),
    ("fig9", lengths("fig9-cifar", "fig9-cifar-short"), "Figure 9: pre-training, dense"),
    ("fig10", lengths("fig10-cifar"), "Figure 10: pre-training, sparse"),
    ("curvature", curvature, "Tiny subspace and Fisher trace"),
    ("instability", instability, "Linear mode connectivity"),
    ("critical-period", deficit, "Critical period"),
)
