"""Colours: seen on their paper, told apart by all eyes; computed here from their definitions."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from ckptlab.report.theme import DASHES, THEMES, Theme, colour_scale, plotly_template

# Machado, Oliveira & Fernandes (2009), severity 1, on linear RGB.
EYES = {
    "normal": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    rgb = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio."""
    high, low = sorted((XYZ[1] @ linear(c) for c in (one, other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def lab(colour: str, eye: str) -> np.ndarray:
    seen = np.clip(np.array(EYES[eye]) @ linear(colour), 0, 1)
    x, y, z = XYZ @ seen / (XYZ @ np.ones(3))
    f = [np.cbrt(v) if v > (6 / 29) ** 3 else v / (3 * (6 / 29) ** 2) + 4 / 29 for v in (x, y, z)]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
def test_any_two_colours_are_told_apart(theme: Theme, eye: str) -> None:
    for one, other in combinations(theme.colours, 2):
        assert np.linalg.norm(lab(one, eye) - lab(other, eye)) > 18, (one, other)


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
def test_everything_is_seen_on_its_paper(theme: Theme) -> None:
    assert contrast(theme.ink, theme.paper) >= 7
    assert contrast(theme.quiet, theme.paper) >= 4.5
    assert contrast(theme.alert, theme.paper) >= 4.5
    assert contrast(theme.focus, theme.paper) >= 3
    for colour in (*theme.colours, *theme.order):
        assert contrast(colour, theme.paper) >= 2.5 if colour in theme.order else 3


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
@pytest.mark.parametrize("eye", EYES)
def test_scales_go_one_way_in_lightness(theme: Theme, eye: str) -> None:
    for scale in (theme.scale, theme.order):
        lightness = [lab(colour, eye)[0] for colour in scale]
        assert (np.diff(lightness) > 0).all() or (np.diff(lightness) < 0).all()
    # What is low is next to the paper.
    away = [abs(lab(c, eye)[0] - lab(theme.paper, eye)[0]) for c in theme.scale]
    assert away == sorted(away)


@pytest.mark.parametrize("name", THEMES)
def test_the_template_is_of_its_theme(name: str) -> None:
    layout = plotly_template(name).layout
    assert layout.paper_bgcolor == THEMES[name].paper
    assert layout.colorway == THEMES[name].colours
    assert len(set(DASHES)) == len(DASHES)


def test_a_scale_is_evenly_spaced() -> None:
    assert colour_scale(("#000000", "#888888", "#FFFFFF")) == [
        (0, "#000000"),
        (0.5, "#888888"),
        (1, "#FFFFFF"),
    ]
