"""Write a page as one HTML file that needs nothing else: styles, scripts, numbers and a policy."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ckptlab.atomic import written_aside
from ckptlab.report.html.arrays import EmbeddedArrays
from ckptlab.report.html.outline import Page
from ckptlab.report.theme import DASHES, THEMES, colour_scale, plotly_template, sample_colours

SCRIPTS: tuple[str, ...] = (
    "values.js",
    "charts.js",
    "lines.js",
    "space.js",
    "points.js",
    "cursor.js",
    "files.js",
    "page.js",
)
"""The parts of the page's own script, in order."""


def write_page(page: Page, path: str) -> str:
    """Write a page and return its path."""
    with written_aside(path) as aside, aside.open("w", encoding="utf-8") as file:
        file.writelines(render(page))
    return path


def render(page: Page) -> Iterator[str]:
    """Yield the HTML of a page piece by piece; its policy lets only its own two scripts run."""
    plotly, script = plotly_script(), _own_script()
    policy = (
        f"default-src 'none'; script-src {_digest(plotly)} {_digest(script)}; "
        "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return (
        environment()
        .get_template("page.html")
        .generate(
            page=page,
            policy=policy,
            style=own_colours() + read_asset("page.css"),
            data=_data(page),
            plotly=plotly,
            script=script,
        )
    )


def environment() -> Environment:
    """Return the Jinja2 environment of the templates; it escapes all text."""
    environment = Environment(
        loader=PackageLoader("ckptlab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # `tojson` escapes <, >, & and ', so that no text can end the script element it stands in.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def _data(page: Page) -> dict[str, Any]:
    arrays = EmbeddedArrays()
    charts = [chart for section in page.sections for chart in section.charts]
    by_run = len(page.runs) > 1 and not page.averaged
    return {
        "runs": page.runs,
        "file": page.file,
        "steps": page.steps,
        "averaged": page.averaged,
        "phases": page.marks,
        "dashes": DASHES,
        "themes": {
            name: {
                "template": plotly_template(name).to_plotly_json(),
                "colours": theme.colours,
                "legend": sample_colours(theme.order, len(page.runs))
                if page.ordered
                else theme.colours,
                "scale": colour_scale(theme.scale),
                "order": colour_scale(theme.order),
                "ink": theme.ink,
                "paper": theme.paper,
                "quiet": theme.quiet,
                "line": theme.line,
                "grid": theme.grid,
            }
            for name, theme in THEMES.items()
        },
        "charts": {
            chart.key: chart.to_json(arrays) | {"byRun": by_run and chart.in_legend}
            for chart in charts
        },
        "arrays": arrays.arrays,
    }


def own_colours() -> str:
    """Write the themes' colours as CSS properties; browsers without `light-dark` get the light."""
    names = ("paper", "ink", "quiet", "grid", "line", "alert", "focus")
    light, dark = THEMES["light"], THEMES["dark"]
    plain = "".join(f"--{n}:{getattr(light, n)};" for n in names)
    both = "".join(f"--{n}:light-dark({getattr(light, n)},{getattr(dark, n)});" for n in names)
    known = "@supports (color: light-dark(#000, #fff))"
    return f":root{{{plain}}}\n{known}{{:root{{{both}}}}}\n"


def _own_script() -> str:
    parts = "\n".join(read_asset(name) for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\n}})();'


def plotly_script() -> str:
    """Return plotly.js."""
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script


def read_asset(name: str) -> str:
    """Return a part of the pages' own script or style."""
    return (resources.files("ckptlab.report") / "assets" / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
