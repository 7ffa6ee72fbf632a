"""List every claim that is tested, with the paper's value and the test.

C: confirmed from the text or from code, R: recalled; see the paper's sections in each claim.
"""

from __future__ import annotations

from math import inf

from reproduction import pick
from reproduction.dense import against_trainer, early, later_flips
from reproduction.evidence import Claim, alike, between, higher, no_higher, no_lower

MARGIN = 0.01
"""Accuracies that differ by no more than this count as equal, if their interval says so."""

CLAIMS: tuple[tuple[str, tuple[Claim, ...]], ...] = (
    (
        "Figure 1: rewinding and pruning",
        (
            Claim(
                "k = 500 beats k = 0 at 13.4 % of the weights",
                "clearly",
                "R",
                "fig1-cifar",
                pick.test(higher, pick.imp(500, 3), pick.imp(0, 3)),
            ),
            Claim(
                "k = 1,000 beats k = 0 at 13.4 % of the weights",
                "clearly",
                "R",
                "fig1-cifar",
                pick.test(higher, pick.imp(1000, 3), pick.imp(0, 3)),
            ),
            Claim(
                "k = 1,000 beats k = 0 at 26.2 % of the weights",
                "clearly",
                "R",
                "fig1-cifar",
                pick.test(higher, pick.imp(1000, 2), pick.imp(0, 2)),
            ),
            Claim(
                "k = 500 is as accurate as the dense network at 26.2 %",
                "down to 16.8 %",
                "R",
                "fig1-cifar",
                pick.test(no_lower, pick.imp(500, 2), pick.imp(500, 0), margin=MARGIN),
            ),
            Claim(
                "k = 1,000 is as accurate as the dense network at 26.2 %",
                "down to 16.8 %",
                "R",
                "fig1-cifar",
                pick.test(no_lower, pick.imp(1000, 2), pick.imp(1000, 0), margin=MARGIN),
            ),
            Claim(
                "random pruning is worse than k = 0 at 13.4 %",
                "worst of all",
                "R",
                "fig1-cifar-controls",
                pick.test(
                    higher, pick.imp(0, 3), pick.imp(500, 3, "fig1-cifar-controls", "random")
                ),
            ),
            Claim(
                "reinitialised sub-networks are worse than k = 500 at 13.4 %",
                "worse",
                "R",
                "fig1-cifar-controls",
                pick.test(
                    higher, pick.imp(500, 3), pick.imp(500, 3, "fig1-cifar-controls", "reinit")
                ),
            ),
            Claim(
                "k > 2,000 adds nothing",
                "nothing",
                "R",
                "fig1-cifar",
                "a training has 4,000 steps at this scale; needs --scale paper",
            ),
        ),
    ),
    (
        "Figures 2 and 3: the early phase (width 16, whole images)",
        (
            *early("fig3-early"),
            later_flips("fig2-early"),
        ),
    ),
    (
        "Figures 2 and 3 at the scale of the other figures (width 8, 16 × 16 pixels)",
        (
            *early("fig3-cifar")[:3],
            early("fig3-cifar")[-1],
            later_flips("fig2-cifar"),
        ),
    ),
    (
        "Our dense runs against an independent trainer (width 16, whole images)",
        against_trainer(),
    ),
    (
        "Figure 4: signs and magnitudes (k = 500, 26.2 %)",
        (
            Claim(
                "signs of k alone do not suffice (magnitudes drawn anew)",
                "worse",
                "R",
                "fig4-cifar",
                pick.test(higher, pick.kind("none"), pick.kind("sign:k,magnitude:fresh")),
            ),
            Claim(
                "magnitudes of k matter (signs of k, magnitudes of 0)",
                "worse",
                "R",
                "fig4-cifar",
                pick.test(higher, pick.kind("none"), pick.kind("sign:k,magnitude:0")),
            ),
            Claim(
                "signs of k matter (signs of 0, magnitudes of k)",
                "worse",
                "R",
                "fig4-cifar",
                pick.test(higher, pick.kind("none"), pick.kind("sign:0,magnitude:k")),
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
                pick.test(alike, pick.kind("shuffle:global"), pick.kind("reinit"), margin=MARGIN),
            ),
            Claim(
                "a shuffle within layers is as bad as a new initialisation",
                "equal",
                "R",
                "fig5-cifar",
                pick.test(alike, pick.kind("shuffle:layer"), pick.kind("reinit"), margin=MARGIN),
            ),
            Claim(
                "a shuffle within filters is better than within layers",
                "slightly better",
                "R",
                "fig5-cifar",
                pick.test(higher, pick.kind("shuffle:filter"), pick.kind("shuffle:layer")),
            ),
            Claim(
                "keeping signs helps a shuffle within filters",
                "helps most",
                "R",
                "fig6-cifar",
                pick.test(
                    higher,
                    pick.kind("shuffle:filter,keep-signs"),
                    lambda e, _: pick.kind("shuffle:filter")(e, "fig5-cifar"),
                ),
            ),
            Claim(
                "keeping signs helps a shuffle within layers",
                "helps",
                "R",
                "fig6-cifar",
                pick.test(
                    higher,
                    pick.kind("shuffle:layer,keep-signs"),
                    lambda e, _: pick.kind("shuffle:layer")(e, "fig5-cifar"),
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
                pick.test(no_lower, pick.kind("noise:0.5"), pick.kind("none"), margin=MARGIN),
            ),
            Claim(
                "noise of 1 σ is survived",
                "0.5–1 σ",
                "R",
                "fig7-cifar",
                pick.test(no_lower, pick.kind("noise:1.0"), pick.kind("none"), margin=MARGIN),
            ),
            Claim(
                "noise of 3 σ is not",
                "worse",
                "R",
                "fig7-cifar",
                pick.test(higher, pick.kind("none"), pick.kind("noise:3.0")),
            ),
            Claim(
                "accuracy falls with the effective standard deviation (r below 0)",
                "r ≈ −0.67",
                "R",
                "fig8-cifar",
                pick.correlation(-1, 0),
            ),
            Claim(
                "it falls about as regularly as in the paper (r from −0.87 to −0.47)",
                "r ≈ −0.67",
                "R",
                "fig8-cifar",
                pick.correlation(-0.87, -0.47),
            ),
            Claim(
                "effective standard deviations are ordered as the paper's: "
                + ", ".join(f"{v:g}" for v in pick.PAPER_STD.values()),
                "that order",
                "R",
                "fig8-cifar",
                pick.order_of_deviations,
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
                pick.test(
                    no_higher,
                    pick.task("random-labels", 2000),
                    pick.task("random-labels", 0),
                    margin=MARGIN,
                ),
            ),
            Claim(
                "500 steps on rotation do not help as 500 on labels do",
                "32× more are needed",
                "R",
                "fig9-cifar-short",
                pick.test(higher, pick.task("supervised", 500), pick.task("rotation", 500)),
            ),
            Claim(
                "2,000 steps on rotation help",
                "about 40 epochs are needed",
                "R",
                "fig9-cifar",
                pick.test(higher, pick.task("rotation", 2000), pick.task("rotation", 0)),
            ),
            Claim(
                "2,000 steps on blurred images help",
                "40 epochs ≈ k = 500",
                "R",
                "fig9-cifar",
                pick.test(higher, pick.task("blur", 2000), pick.task("blur", 0)),
            ),
            Claim(
                "500 steps on blurred images help less than 500 on sharp ones",
                "less",
                "R",
                "fig9-cifar-short",
                pick.test(higher, pick.task("supervised", 500), pick.task("blur", 500)),
            ),
            Claim(
                "2,000 steps on blurred rotation do not help",
                "no use on ResNet-20",
                "R",
                "fig9-cifar",
                pick.test(
                    no_higher,
                    pick.task("blur-rotation", 2000),
                    pick.task("blur-rotation", 0),
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
                pick.test(no_higher, pick.task(task, 2000), pick.task(task, 0), margin=MARGIN),
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
                pick.share,
            ),
            Claim(
                "the Fisher trace rises, then falls",
                "rises and falls",
                "C",
                "curvature-cifar",
                pick.fisher,
            ),
            Claim(
                "instability is smaller from k = 1,000 than from k = 0",
                "falls",
                "C",
                "instability-cifar",
                pick.test(higher, pick.instability(0), pick.instability(1000)),
            ),
            Claim(
                "dense children of k = 1,000 are not stable yet (2 %)",
                "from k ≈ 2,000 on",
                "C",
                "instability-cifar",
                pick.test(between, pick.instability(1000), low=0.02, high=inf),
            ),
            Claim(
                "sparse children of k = 1,000 are stable (below 2 %)",
                "from k ≈ 500 on",
                "C",
                "instability-cifar",
                pick.test(between, pick.instability(1000, 2), low=-inf, high=0.02),
            ),
            Claim(
                "4,000 blurred steps cost accuracy for good",
                "lasting",
                "C",
                "critical_period-cifar",
                pick.test(higher, pick.duration(0), pick.duration(4000)),
            ),
            Claim(
                "250 blurred steps cost nothing",
                "early enough",
                "I",
                "critical_period-cifar",
                pick.test(no_lower, pick.duration(250), pick.duration(0), margin=MARGIN),
            ),
        ),
    ),
)
"""Claims by the heading they stand under."""
