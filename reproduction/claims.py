"""List every claim that is tested, with the paper's value and the test.

C: confirmed from the text or from code, R: recalled; see the paper's sections in each claim.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ckptlab.experiments.results.regression import fit_line
from reproduction.evidence import (
    AGREES,
    CANNOT,
    DIFFERS,
    OPEN,
    By,
    Claim,
    Evidence,
    Verdict,
    alike,
    all_of,
    between,
    higher,
    no_higher,
    no_lower,
    one_more,
)

MARGIN = 0.01
"""Accuracies that differ by no more than this count as equal, if their interval says so."""

SPARSE = {"rewind": 500, "level": 2}
"""Where perturbations are judged: 26.2 % of the weights, as in the paper's figure 8."""

TRAINER = {
    "eval_accuracy": {391: 0.496, 2000: 0.676, 4000: 0.756},
    "sign_flips_init": {10: 0.010, 500: 0.090, 2000: 0.19, 4000: 0.26},
    "weight_distance_init": {10: 2.06, 500: 16.3, 2000: 31.8, 4000: 41.8},
}
"""What an independent trainer measured on the same images, one seed (width 16, 32 x 32 pixels)."""


def _telemetry(name: str, step: int) -> Any:
    return lambda e, figure: e.at_step(figure, "telemetry", name, step)


def _gradient_first(e: Evidence, figure: str) -> Verdict:
    curves = e.values(figure, "telemetry", "gradient_norm")
    first, later = (
        {s: _mean(c, *ends) for s, c in curves.items()} for ends in ((1, 10), (100, 4000))
    )
    return higher(first, later, 1, "")


def _gradient_minimum(e: Evidence, figure: str) -> Verdict:
    curves = e.values(figure, "telemetry", "gradient_norm")
    lowest: By = {}
    for seed, curve in curves.items():
        early = [
            (v, s) for s, v in zip(curve["step"], curve["value"], strict=True) if 20 < s <= 2000
        ]
        if early:
            lowest[seed] = float(min(early)[1])
    return between(lowest, 100, 400, 1, "")


def _mean(curve: dict[str, list[float]], first: int, last: int) -> float:
    inside = [v for s, v in zip(curve["step"], curve["value"], strict=True) if first <= s <= last]
    return float(np.mean(inside)) if inside else float("nan")


def _slows(e: Evidence, figure: str) -> Verdict:
    curves = e.values(figure, "telemetry", "weight_change")
    parts = [{s: _mean(c, *ends) for s, c in curves.items()} for ends in ((200, 500), (2000, 4000))]
    return higher(*parts, 1, "")


def _phase(name: str, phase: str) -> Any:
    def found(e: Evidence, figure: str) -> By:
        values = e.values(figure, "timeline", name)
        names = e.values(figure, "timeline", "phase")
        return {
            seed: v[names[seed].index(phase)] for seed, v in values.items() if phase in names[seed]
        }

    return found


def _imp(rewind: int, level: int, figure: str = "fig1-cifar", way: str = "imp") -> Any:
    return lambda e, _: e.number(figure, "accuracy", rewind=rewind, level=level, pruning=way)


def _kind(kind: str, **at: Any) -> Any:
    where = {**SPARSE, **at}
    return lambda e, figure: e.number(figure, "accuracy", perturbation=kind, **where)


def _task(task: str, length: int, level: int = 2) -> Any:
    return lambda e, figure: e.number(figure, "accuracy", task=task, length=length, level=level)


def test(judge: Any, *groups: Any, **options: Any) -> Any:
    """Judge groups that are selected from the evidence."""
    return lambda e, figure: judge(*(group(e, figure) for group in groups), **options)


def _correlation(e: Evidence, figure: str) -> Verdict:
    """Correlate means over seeds, as the report does; the interval is Fisher's."""
    x, y = _deviations(e, figure)
    fit = fit_line(np.array(x), np.array(y))
    if fit is None or fit.count < 4:
        return Verdict(OPEN, "", "not run yet")
    reach = 1.96 / np.sqrt(fit.count - 3)
    z = np.arctanh(np.clip(fit.r, -1 + 1e-12, 1 - 1e-12))
    low, high = np.tanh(z - reach), np.tanh(z + reach)
    ours = f"r = {fit.r:.2f} over {fit.count} perturbations"
    test = f"p = {fit.p:.2g}; 95 % interval {low:.2f} to {high:.2f}, Fisher's z"
    if low <= -0.67 <= high and high < 0:
        return Verdict(AGREES, ours, test)
    return Verdict(CANNOT if low <= -0.67 <= high else DIFFERS, ours, test)


def _deviations(e: Evidence, figure: str) -> tuple[list[float], list[float]]:
    kinds = dict.fromkeys(row["at"]["perturbation"] for row in e.rows(figure, **SPARSE))
    x, y = [], []
    for kind in kinds:
        moved = e.number(figure, "effective_std", perturbation=kind, **SPARSE)
        accuracy = e.number(figure, "accuracy", perturbation=kind, **SPARSE)
        if kind != "none" and moved and accuracy:
            x.append(float(np.mean(list(moved.values()))))
            y.append(float(np.mean(list(accuracy.values()))))
    return x, y


PAPER_STD = {
    "sign:0,magnitude:k": 0.033,
    "sign:k,magnitude:0": 0.042,
    "shuffle:filter,keep-signs": 0.049,
    "shuffle:layer,initial-signs": 0.087,
    "shuffle:filter": 0.092,
    "shuffle:layer": 0.143,
    "shuffle:global": 0.144,
}


def _order_of_deviations(e: Evidence, figure: str) -> Verdict:
    from scipy import stats

    ours = {k: e.number(figure, "effective_std", perturbation=k, **SPARSE) for k in PAPER_STD}
    means = {k: float(np.mean(list(v.values()))) for k, v in ours.items() if v}
    if len(means) < len(PAPER_STD):
        return Verdict(OPEN, "", "not run yet")
    found = stats.spearmanr(list(PAPER_STD.values()), [means[k] for k in PAPER_STD])
    told = ", ".join(f"{means[k]:.3f}" for k in PAPER_STD)
    test = f"Spearman's ρ = {found.statistic:.2f}, p = {found.pvalue:.2g}"
    agrees = found.statistic > 0 and found.pvalue < 0.05
    return Verdict(AGREES if agrees else DIFFERS, told, test)


def _instability(rewind: int, level: int = 0) -> Any:
    def found(e: Evidence, figure: str) -> By:
        cells = e.rows(figure, rewind=rewind, level=level)
        return {row["seed"]: row["values"]["instability"] for row in cells}

    return found


def _share(e: Evidence, figure: str) -> Verdict:
    shares = e.values(figure, "gradient-subspace", "gradient_share")
    base = e.values(figure, "gradient-subspace", "baseline")
    times = {s: _mean(c, 200, 1000) / base[s] for s, c in shares.items() if s in base}
    return between(times, 100, np.inf, 1, " times")


def _fisher(e: Evidence, figure: str) -> Verdict:
    curves = e.values(figure, "fisher-trace", "fisher-trace")
    top = {s: max(c["value"]) for s, c in curves.items()}
    ends = [{s: c["value"][i] for s, c in curves.items()} for i in (0, -1)]
    return all_of(*(higher(top, end, 1, "") for end in ends))


def _duration(steps: int) -> Any:
    return lambda e, figure: e.number(figure, "accuracy", duration=steps)


def _trainer(name: str, step: int, value: float) -> Claim:
    share = name != "weight_distance_init"
    named = {
        "eval_accuracy": "test accuracy",
        "sign_flips_init": "signs that differ from the initial ones",
        "weight_distance_init": "‖w − w₀‖",
    }[name]
    scale = {"scale": 100, "unit": " %"} if share else {"scale": 1, "unit": ""}
    return Claim(
        f"{named} after {step:,} steps",
        f"{value * scale['scale']:g}{scale['unit']}",  # type: ignore[operator]
        "independent trainer, one seed",
        "fig3-early",
        test(one_more, _telemetry(name, step), other=value, **scale),
    )


def _early(figure: str) -> list[Claim]:
    return [
        Claim(
            "gradients are the largest in the first 10 steps",
            "steps 1–10",
            "R",
            figure,
            _gradient_first,
        ),
        Claim(
            "the gradient's norm has its minimum near step 200",
            "≈ 200",
            "R",
            figure,
            _gradient_minimum,
        ),
        Claim(
            "signs flip in the first 10 steps",
            "≈ 3 %",
            "R",
            figure,
            test(between, _telemetry("sign_flips_init", 10), low=0.02, high=0.04),
        ),
        Claim(
            "accuracy after an epoch",
            "55 %",
            "C",
            figure,
            test(between, _telemetry("eval_accuracy", 391), low=0.5, high=0.6),
        ),
        Claim(
            "accuracy after 2,000 steps",
            "≈ 80 %",
            "R",
            figure,
            test(between, _telemetry("eval_accuracy", 2000), low=0.75, high=0.85),
        ),
        Claim(
            "weights slow down after step 500 (‖Δw‖ of steps 200–500 against 2,000–4,000)",
            "slower",
            "R",
            figure,
            _slows,
        ),
    ]


CLAIMS: tuple[tuple[str, tuple[Claim, ...]], ...] = (
    (
        "Figure 1: rewinding and pruning",
        (
            Claim(
                "k = 500 beats k = 0 at 13.4 % of the weights",
                "clearly",
                "R",
                "fig1-cifar",
                test(higher, _imp(500, 3), _imp(0, 3)),
            ),
            Claim(
                "k = 1,000 beats k = 0 at 13.4 % of the weights",
                "clearly",
                "R",
                "fig1-cifar",
                test(higher, _imp(1000, 3), _imp(0, 3)),
            ),
            Claim(
                "k = 1,000 beats k = 0 at 26.2 % of the weights",
                "clearly",
                "R",
                "fig1-cifar",
                test(higher, _imp(1000, 2), _imp(0, 2)),
            ),
            Claim(
                "k = 500 is as accurate as the dense network at 26.2 %",
                "down to 16.8 %",
                "R",
                "fig1-cifar",
                test(no_lower, _imp(500, 2), _imp(500, 0), margin=MARGIN),
            ),
            Claim(
                "k = 1,000 is as accurate as the dense network at 26.2 %",
                "down to 16.8 %",
                "R",
                "fig1-cifar",
                test(no_lower, _imp(1000, 2), _imp(1000, 0), margin=MARGIN),
            ),
            Claim(
                "random pruning is worse than k = 0 at 13.4 %",
                "worst of all",
                "R",
                "fig1-cifar-controls",
                test(higher, _imp(0, 3), _imp(500, 3, "fig1-cifar-controls", "random")),
            ),
            Claim(
                "reinitialised sub-networks are worse than k = 500 at 13.4 %",
                "worse",
                "R",
                "fig1-cifar-controls",
                test(higher, _imp(500, 3), _imp(500, 3, "fig1-cifar-controls", "reinit")),
            ),
            Claim(
                "k > 2,000 adds nothing",
                "nothing",
                "R",
                "fig1-cifar",
                "a training has 2,000 steps at this scale; needs --scale paper",
            ),
        ),
    ),
    (
        "Figures 2 and 3: the early phase (width 16, whole images)",
        (
            *_early("fig3-early"),
            Claim(
                "signs that change between steps 500 and 2,000",
                "9 %",
                "R",
                "fig2-early",
                test(between, _phase("sign_flips", "500-2000"), low=0.06, high=0.12),
            ),
        ),
    ),
    (
        "Figures 2 and 3 at the scale of the other figures (width 8, 16 × 16 pixels)",
        (
            *_early("fig3-cifar")[:3],
            _early("fig3-cifar")[-1],
            Claim(
                "signs that change between steps 500 and 2,000",
                "9 %",
                "R",
                "fig2-cifar",
                test(between, _phase("sign_flips", "500-2000"), low=0.06, high=0.12),
            ),
        ),
    ),
    (
        "Our dense runs against an independent trainer (width 16, whole images)",
        tuple(_trainer(n, s, v) for n, at in TRAINER.items() for s, v in at.items()),
    ),
    (
        "Figure 4: signs and magnitudes (k = 500, 26.2 %)",
        (
            Claim(
                "signs of k alone do not suffice (magnitudes drawn anew)",
                "worse",
                "R",
                "fig4-cifar",
                test(higher, _kind("none"), _kind("sign:k,magnitude:fresh")),
            ),
            Claim(
                "magnitudes of k matter (signs of k, magnitudes of 0)",
                "worse",
                "R",
                "fig4-cifar",
                test(higher, _kind("none"), _kind("sign:k,magnitude:0")),
            ),
            Claim(
                "signs of k matter (signs of 0, magnitudes of k)",
                "worse",
                "R",
                "fig4-cifar",
                test(higher, _kind("none"), _kind("sign:0,magnitude:k")),
            ),
        ),
    ),
    (
        "Figures 5 and 6: shuffles (k = 500, 26.2 %)",
        (
            Claim(
                "a global shuffle is as bad as a new initialisation",
                "equal",
                "R",
                "fig5-cifar",
                test(alike, _kind("shuffle:global"), _kind("reinit"), margin=MARGIN),
            ),
            Claim(
                "a shuffle within layers is as bad as a new initialisation",
                "equal",
                "R",
                "fig5-cifar",
                test(alike, _kind("shuffle:layer"), _kind("reinit"), margin=MARGIN),
            ),
            Claim(
                "a shuffle within filters is better than within layers",
                "slightly better",
                "R",
                "fig5-cifar",
                test(higher, _kind("shuffle:filter"), _kind("shuffle:layer")),
            ),
            Claim(
                "keeping signs helps a shuffle within filters",
                "helps most",
                "R",
                "fig6-cifar",
                test(
                    higher,
                    _kind("shuffle:filter,keep-signs"),
                    lambda e, _: _kind("shuffle:filter")(e, "fig5-cifar"),
                ),
            ),
            Claim(
                "keeping signs helps a shuffle within layers",
                "helps",
                "R",
                "fig6-cifar",
                test(
                    higher,
                    _kind("shuffle:layer,keep-signs"),
                    lambda e, _: _kind("shuffle:layer")(e, "fig5-cifar"),
                ),
            ),
        ),
    ),
    (
        "Figures 7 and 8: noise, and how far weights move (k = 500, 26.2 %)",
        (
            Claim(
                "noise of 0.5 σ is survived",
                "0.5–1 σ",
                "R",
                "fig7-cifar",
                test(no_lower, _kind("noise:0.5"), _kind("none"), margin=MARGIN),
            ),
            Claim(
                "noise of 1 σ is survived",
                "0.5–1 σ",
                "R",
                "fig7-cifar",
                test(no_lower, _kind("noise:1.0"), _kind("none"), margin=MARGIN),
            ),
            Claim(
                "noise of 3 σ is not",
                "worse",
                "R",
                "fig7-cifar",
                test(higher, _kind("none"), _kind("noise:3.0")),
            ),
            Claim(
                "accuracy falls with the effective standard deviation",
                "r ≈ −0.67",
                "R",
                "fig8-cifar",
                _correlation,
            ),
            Claim(
                "effective standard deviations are ordered as the paper's: "
                + ", ".join(f"{v:g}" for v in PAPER_STD.values()),
                "that order",
                "R",
                "fig8-cifar",
                _order_of_deviations,
            ),
        ),
    ),
    (
        "Figure 9: pre-training the dense network (26.2 %)",
        (
            Claim(
                "2,000 steps on random labels do not help",
                "none up to 10 epochs",
                "R",
                "fig9-cifar",
                test(
                    no_higher,
                    _task("random-labels", 2000),
                    _task("random-labels", 0),
                    margin=MARGIN,
                ),
            ),
            Claim(
                "500 steps on rotation do not help as 500 on labels do",
                "32× more are needed",
                "R",
                "fig9-cifar",
                test(higher, _task("supervised", 500), _task("rotation", 500)),
            ),
            Claim(
                "2,000 steps on rotation help",
                "about 40 epochs are needed",
                "R",
                "fig9-cifar",
                test(higher, _task("rotation", 2000), _task("rotation", 0)),
            ),
            Claim(
                "2,000 steps on blurred images help",
                "40 epochs ≈ k = 500",
                "R",
                "fig9-cifar",
                test(higher, _task("blur", 2000), _task("blur", 0)),
            ),
            Claim(
                "500 steps on blurred images help less than 500 on sharp ones",
                "less",
                "R",
                "fig9-cifar",
                test(higher, _task("supervised", 500), _task("blur", 500)),
            ),
            Claim(
                "2,000 steps on blurred rotation do not help",
                "no use on ResNet-20",
                "R",
                "fig9-cifar",
                test(
                    no_higher,
                    _task("blur-rotation", 2000),
                    _task("blur-rotation", 0),
                    margin=MARGIN,
                ),
            ),
        ),
    ),
    (
        "Figure 10: pre-training the sparse network (26.2 %)",
        tuple(
            Claim(
                f"2,000 steps on {task} add nothing to k = 0",
                "nothing",
                "R",
                "fig10-cifar",
                test(no_higher, _task(task, 2000), _task(task, 0), margin=MARGIN),
            )
            for task in ("random-labels", "rotation", "blur", "blur-rotation")
        ),
    ),
    (
        "Neighbours",
        (
            Claim(
                "the gradient lies in the Hessian's top 10 at steps 200–1,000: share over k/P",
                "≫ 1 (counted from 100)",
                "C",
                "curvature-cifar",
                _share,
            ),
            Claim(
                "the Fisher trace rises, then falls",
                "rises and falls",
                "C",
                "curvature-cifar",
                _fisher,
            ),
            Claim(
                "instability is smaller from k = 1,000 than from k = 0",
                "falls",
                "C",
                "instability-cifar",
                test(higher, _instability(0), _instability(1000)),
            ),
            Claim(
                "dense children of k = 1,000 are not stable yet (2 %)",
                "from k ≈ 2,000 on",
                "C",
                "instability-cifar",
                test(between, _instability(1000), low=0.02, high=np.inf),
            ),
            Claim(
                "sparse children of k = 1,000 are stable (below 2 %)",
                "from k ≈ 500 on",
                "C",
                "instability-cifar",
                test(between, _instability(1000, 2), low=-np.inf, high=0.02),
            ),
            Claim(
                "4,000 blurred steps cost accuracy for good",
                "lasting",
                "C",
                "critical_period-cifar",
                test(higher, _duration(0), _duration(4000)),
            ),
            Claim(
                "250 blurred steps cost nothing",
                "early enough",
                "I",
                "critical_period-cifar",
                test(no_lower, _duration(250), _duration(0), margin=MARGIN),
            ),
        ),
    ),
)
"""Claims by the heading they stand under."""
