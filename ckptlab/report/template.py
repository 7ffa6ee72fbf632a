"""One look for all figures: colours told apart by all eyes, quiet axes, a legend one can read.

Imports nothing of ckptlab.
"""

from __future__ import annotations

from typing import Any

COLOURS: tuple[str, ...] = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#8C564B",
    "#666666",
)
"""Okabe and Ito's, without the yellow that white paper swallows."""

DASHES: tuple[str, ...] = ("solid", "dash", "dot", "dashdot")
"""When the colours are used up, lines differ in their dashes."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


def template() -> Any:
    """Return the plotly template.

    Returns
    -------
    plotly.graph_objects.layout.Template
        Light, printable.
    """
    import plotly.graph_objects as go

    axis = {
        "showgrid": True,
        "gridcolor": "#E6E6E6",
        "zeroline": False,
        "linecolor": "#444444",
        "ticks": "outside",
        "tickcolor": "#444444",
        "exponentformat": "power",
        "title": {"standoff": 8},
        "automargin": True,
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 14, "color": "#222222"},
            "colorway": list(COLOURS),
            "paper_bgcolor": "#FFFFFF",
            "plot_bgcolor": "#FFFFFF",
            "xaxis": axis,
            "yaxis": axis,
            "hovermode": "x unified",
            "hoverlabel": {"namelength": -1},
            "legend": {"bgcolor": "rgba(255,255,255,0.8)", "itemsizing": "constant"},
            "margin": {"l": 70, "r": 20, "t": 60, "b": 60},
            "title": {"x": 0, "xref": "paper", "font": {"size": 17}},
        }
    )
