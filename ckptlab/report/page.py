"""A page in one HTML file that needs nothing else: scripts, numbers and policy."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from ckptlab.report.html import html
from ckptlab.report.html.arrays import Columns
from ckptlab.report.html.markup import embedded_json, joined, tag
from ckptlab.report.html.outline import Page
from ckptlab.report.theme import DASHES, THEMES, between, evenly, template

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
"""Parts of the page's own script, in order."""


def write_page(page: Page, path: str) -> str:
    """Write a page.

    Parameters
    ----------
    page : Page
        What to write.
    path : str
        What is there is replaced, once the new file is whole.

    Returns
    -------
    str
        The path.
    """
    aside = Path(f"{path}.partial")
    with aside.open("w", encoding="utf-8") as file:
        file.writelines(rendered(page))
    aside.replace(path)
    return path


def rendered(page: Page) -> Iterator[str]:
    """Render a page.

    Parameters
    ----------
    page : Page
        What to render.

    Yields
    ------
    str
        Pieces of HTML, in order. Its scripts are the only ones that its own policy lets run.
    """
    plotly = _plotly()
    own = _own_script()
    policy = (
        f"default-src 'none'; script-src {_hashed(plotly)} {_hashed(own)}; "
        "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    yield "<!doctype html>\n"
    yield '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield tag("meta", http_equiv="Content-Security-Policy", content=policy)
    yield tag("meta", name="viewport", content="width=device-width, initial-scale=1")
    yield '<link rel="icon" href="data:,">'
    yield tag("title", f"{page.title} · ckptlab")
    yield f"<style>\n{_colours()}{_asset('page.css')}</style>\n</head>\n<body>\n"
    yield joined(html.header(page), html.bar(page))
    yield tag("main", *(html.section(section) for section in page.sections), id="main")
    yield tag("footer", *(tag("p", note) for note in page.notes))
    yield f'\n<script type="application/json" id="data">{embedded_json(_data(page))}</script>\n'
    yield f"<script>{plotly}</script>\n<script>{own}</script>\n</body>\n</html>\n"


def _data(page: Page) -> dict[str, Any]:
    columns = Columns()
    charts = [chart for section in page.sections for chart in section.charts]
    specifications = {chart.key: chart.specification(columns) for chart in charts}
    for specification in specifications.values():
        specification["byRun"] = len(page.runs) > 1 and specification["inLegend"]
    return {
        "runs": list(page.runs),
        "file": page.file,
        "steps": page.steps and list(page.steps),
        "phases": list(page.marks),
        "dashes": list(DASHES),
        "themes": {
            name: {
                "template": template(name).to_plotly_json(),
                "colours": list(theme.colours),
                "legend": between(theme.order, len(page.runs))
                if page.ordered
                else list(theme.colours),
                "scale": evenly(theme.scale),
                "order": evenly(theme.order),
                "ink": theme.ink,
                "quiet": theme.quiet,
                "line": theme.line,
                "grid": theme.grid,
            }
            for name, theme in THEMES.items()
        },
        "charts": specifications,
        "arrays": columns.arrays,
    }


def _colours() -> str:
    """Write the colours of the themes as custom properties; old browsers get the light ones."""
    names = ("paper", "ink", "quiet", "grid", "line", "alert", "focus")
    light, dark = THEMES["light"], THEMES["dark"]
    plain = "".join(f"--{n}:{getattr(light, n)};" for n in names)
    both = "".join(f"--{n}:light-dark({getattr(light, n)},{getattr(dark, n)});" for n in names)
    known = "@supports (color: light-dark(#000, #fff))"
    return f":root{{{plain}}}\n{known}{{:root{{{both}}}}}\n"


def _own_script() -> str:
    parts = "\n".join(_asset(name) for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\n}})();'


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script


def _asset(name: str) -> str:
    return (resources.files("ckptlab.report") / "assets" / name).read_text(encoding="utf-8")


def _hashed(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
