"""Hold the colours and the plotly template that all figures share, light and dark.

Any two colours of a palette differ by more than 18 (ΔE*ab) to normal, protan, deutan and tritan
eyes, and have a contrast of at least 3:1 on the paper; a test computes both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

DASHES: tuple[str, ...] = ("solid", "dash", "dot", "dashdot")
"""Tell lines of one colour apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Theme:
    """The colours of one theme.

    `line` frames things, `grid` is for grid lines, `quiet` for text that recedes, `alert` for what
    must not be missed, `focus` surrounds what has the keyboard. `colours` are for lines; `scale`
    runs from low, near the paper, to high; `order` runs from early to late.
    """

    paper: str
    ink: str
    quiet: str
    line: str
    grid: str
    alert: str
    focus: str
    colours: tuple[str, ...]
    scale: tuple[str, ...]
    order: tuple[str, ...]


THEMES: Mapping[str, Theme] = {
    "light": Theme(
        paper="#FFFFFF",
        ink="#1B1F24",
        quiet="#5B6470",
        line="#B4BAC2",
        grid="#E7E9EC",
        alert="#B13D1D",
        focus="#194BC5",
        colours=(
            "#194BC5",
            "#B13D1D",
            "#04A691",
            "#774393",
            "#C68700",
            "#7A8DE7",
            "#6E2621",
            "#48525F",
        ),
        scale=("#F3F5F8", "#C9DCEB", "#8FBBDB", "#4C8FC4", "#1F5FA8", "#123C7A", "#0A1F47"),
        order=("#E08A1E", "#C8553D", "#96356B", "#562A7E", "#1B1F5A"),
    ),
    "dark": Theme(
        paper="#14171C",
        ink="#E8EAED",
        quiet="#9BA4B0",
        line="#4A525E",
        grid="#2A2F37",
        alert="#F38F50",
        focus="#A8D1FF",
        colours=(
            "#4588FC",
            "#F38F50",
            "#30E2BC",
            "#AD71BF",
            "#F1D73E",
            "#A8D1FF",
            "#CF594F",
            "#898A96",
        ),
        scale=("#1B2027", "#1B3553", "#1F5487", "#2F7DB8", "#5FA9D9", "#A5D3F0", "#E9F6FF"),
        order=("#6A5BD0", "#B060C8", "#E5738B", "#F5A35C", "#F9E27D"),
    ),
}
"""The themes by name."""

COLOURS: tuple[str, ...] = THEMES["light"].colours
"""The colours of lines on white paper."""


def plotly_template(theme: str = "light") -> Any:
    """Return the plotly template of a theme; print uses ``light``."""
    import plotly.graph_objects as go

    look = THEMES[theme]
    axis = {
        "showgrid": True,
        "gridcolor": look.grid,
        "zeroline": False,
        "linecolor": look.quiet,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": look.quiet,
        "tickfont": {"color": look.quiet},
        "exponentformat": "none",
        "title": {"standoff": 8, "font": {"color": look.quiet}},
        "automargin": True,
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": look.ink},
            "colorway": list(look.colours),
            "colorscale": {"sequential": colour_scale(look.scale)},
            "paper_bgcolor": look.paper,
            "plot_bgcolor": look.paper,
            "xaxis": {**axis, "showgrid": False, "showline": True},
            "yaxis": axis,
            "hovermode": "x unified",
            "hoverlabel": {
                "namelength": -1,
                "bgcolor": look.paper,
                "bordercolor": look.line,
                "font": {"color": look.ink},
            },
            "legend": {"bgcolor": "rgba(0,0,0,0)"},
            "margin": {"l": 70, "r": 20, "t": 60, "b": 60},
            "title": {
                "x": 0,
                "xref": "paper",
                "y": 1,
                "yref": "container",
                "yanchor": "top",
                "pad": {"t": 16},
                "font": {"size": 17},
            },
        }
    )


def colour_scale(colours: tuple[str, ...]) -> list[tuple[float, str]]:
    """Space colours evenly on a plotly colour scale."""
    return [(k / (len(colours) - 1), colour) for k, colour in enumerate(colours)]


def sample_colours(colours: tuple[str, ...], count: int) -> list[str]:
    """Interpolate `count` evenly spaced colours along a scale, both ends included."""
    parts = np.array([list(bytes.fromhex(colour[1:])) for colour in colours], float)
    places = np.linspace(0, len(colours) - 1, count)
    grid = np.arange(len(colours))
    mixed = np.stack([np.interp(places, grid, part) for part in parts.T], axis=1)
    return ["#" + bytes(row).hex().upper() for row in np.rint(mixed).astype(np.uint8)]
