"""A page: sections of charts and text in one HTML file that needs nothing else.

Imports report.{columns, markup, parts, template}. What a page is about is somebody else's: see
`report.overview`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ckptlab.report.columns import Columns
from ckptlab.report.markup import NOTHING, Markup, embedded_json, joined, tag
from ckptlab.report.parts import Chart, HeatChart, LineChart, SpaceChart
from ckptlab.report.template import DASHES, THEMES, evenly, template

SCRIPTS: tuple[str, ...] = (
    "values.js",
    "charts.js",
    "space.js",
    "cursor.js",
    "files.js",
    "page.js",
)
"""Parts of the page's own script, in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of a page under one heading.

    Parameters
    ----------
    key : str
        In its address.
    title : str
        The heading.
    text : str
        Under it.
    charts : tuple of Chart
        In order.
    arranged : str
        ``half`` of the width for each, or ``thirds``.
    markup : Markup
        Before the charts.
    choice : bool
        It shows one run at a time: the reader chooses which.
    """

    key: str
    title: str
    text: str = ""
    charts: tuple[Chart, ...] = ()
    arranged: str = "half"
    markup: Markup = NOTHING
    choice: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """All of it.

    Parameters
    ----------
    title : str
        The first heading.
    kicker, lede : str
        Above and below it.
    runs : tuple of str
        Names in the legend.
    head : Markup
        Below the lede.
    sections : tuple of Section
        In order.
    notices : tuple of str
        What the reader must know first.
    notes : tuple of Markup
        At the foot.
    steps : tuple of int
        First and last on the step axis.
    marks : tuple of int
        Steps with a fine line through the charts.
    """

    title: str
    kicker: str
    lede: str
    runs: tuple[str, ...]
    sections: tuple[Section, ...]
    steps: tuple[int, int]
    head: Markup = NOTHING
    notices: tuple[str, ...] = ()
    notes: tuple[Markup, ...] = ()
    marks: tuple[int, ...] = ()


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
    yield joined(_header(page), _bar(page))
    yield tag("main", *(_section(page, section) for section in page.sections), id="main")
    yield tag("footer", *(tag("p", note) for note in page.notes))
    yield f'\n<script type="application/json" id="data">{embedded_json(_data(page))}</script>\n'
    yield f"<script>{plotly}</script>\n<script>{own}</script>\n</body>\n</html>\n"


def _header(page: Page) -> Markup:
    links = [tag("li", tag("a", s.title, href=f"#{s.key}")) for s in page.sections]
    scripts = tag(
        "noscript", tag("p", "The charts are drawn by a script: allow it.", class_="notice")
    )
    return joined(
        tag("a", "Skip to the charts", class_="skip", href="#main"),
        tag(
            "header",
            tag("p", page.kicker, class_="kicker"),
            tag("h1", page.title),
            tag("p", page.lede, class_="lede"),
            *(tag("p", notice, class_="notice", role="note") for notice in page.notices),
            scripts,
            page.head,
            tag("nav", tag("ul", *links), aria_label="Contents"),
        ),
    )


def _bar(page: Page) -> Markup:
    first, last = page.steps
    bounds = {"type": "number", "min": first, "max": last, "step": 1}
    span = tag(
        "fieldset",
        tag("legend", "Steps"),
        tag("label", tag("span", "from"), tag("input", name="from", value=first, **bounds)),
        tag("label", tag("span", "to"), tag("input", name="to", value=last, **bounds)),
        tag("button", "all", type="button", data_do="reset", hidden=True),
        class_="range",
    )
    legend = None
    if len(page.runs) > 1:
        legend = tag(
            "fieldset",
            tag("legend", "Runs"),
            *(
                tag(
                    "label",
                    tag("input", type="checkbox", name="shown", value=run, checked=True),
                    tag("i", class_="swatch", data_run=run),
                    name,
                )
                for run, name in enumerate(page.runs)
            ),
            class_="runs",
        )
    switches = (
        legend,
        _segments("axis", "Step axis", {"log": "log", "linear": "linear"}),
        span,
        _segments("theme", "Theme", {"auto": "auto", "light": "light", "dark": "dark"}),
        tag("output", class_="at", aria_live="off"),
    )
    return tag("div", tag("div", *switches), class_="bar", role="region", aria_label="Switches")


def _segments(name: str, legend: str, choices: dict[str, str]) -> Markup:
    first = next(iter(choices))
    options = (
        tag(
            "label",
            tag("input", type="radio", name=name, value=value, checked=value == first),
            tag("span", text),
        )
        for value, text in choices.items()
    )
    return tag("fieldset", tag("legend", legend), tag("div", *options, class_="segments"))


def _section(page: Page, section: Section) -> Markup:
    choice = None
    if section.choice and len(page.runs) > 1:
        options = {str(run): name for run, name in enumerate(page.runs)}
        choice = tag("div", _segments(f"run-{section.key}", "Run", options), class_="choice")
    charts = None
    if section.charts:
        charts = tag(
            "div",
            *(_figure(chart, section.arranged) for chart in section.charts),
            class_=f"grid {section.arranged}",
        )
    return tag(
        "section",
        tag("h2", section.title, id=f"{section.key}-title"),
        tag("p", section.text) if section.text else None,
        choice,
        section.markup,
        charts,
        id=section.key,
        aria_labelledby=f"{section.key}-title",
    )


def _figure(chart: Chart, arranged: str) -> Markup:
    return tag(
        "figure",
        tag(
            "figcaption",
            joined(
                tag("h3", chart.title, id=f"{chart.key}-title"),
                " ",
                tag("span", chart.unit, class_="unit"),
            ),
            tag("p", chart.about, class_="about", id=f"{chart.key}-about"),
            tag("p", chart.summary, class_="unseen", id=f"{chart.key}-summary"),
        ),
        tag("ul", class_="key") if isinstance(chart, LineChart) else None,
        tag(
            "div",
            tag(
                "div",
                class_="plot",
                data_chart=chart.key,
                data_kind=chart.kind,
                tabindex=0,
                **_described(chart),
            ),
            tag("div", class_="rule"),
            class_="box",
        ),
        tag(
            "div",
            tag("button", "Table", type="button", data_do="table", aria_expanded="false"),
            tag("button", "CSV", type="button", data_do="csv"),
            tag("button", "PNG", type="button", data_do="png"),
            tag("button", "SVG", type="button", data_do="svg"),
            tag("p", chart.note, class_="note") if chart.note else None,
            class_="tools",
        ),
        class_=arranged,
        id=chart.key,
        aria_labelledby=f"{chart.key}-title",
    )


def _described(chart: Chart) -> dict[str, str]:
    """Say what the drawing is to a reader who cannot see it, and how keys work on it."""
    described = {"aria_describedby": f"{chart.key}-about {chart.key}-summary"}
    if isinstance(chart, LineChart) and chart.axis.step:
        label = f"{chart.title}: arrow keys move the step"
        return {**described, "role": "slider", "aria_label": label, "aria_valuenow": "0"}
    keys = ": arrow keys turn it" if isinstance(chart, SpaceChart) else ""
    kind = "heat map" if isinstance(chart, HeatChart) else "chart"
    return {**described, "role": "img", "aria_label": f"{chart.title}, {kind}{keys}"}


def _data(page: Page) -> dict[str, Any]:
    columns = Columns()
    charts = [chart for section in page.sections for chart in section.charts]
    specifications = {chart.key: chart.specification(columns) for chart in charts}
    for specification in specifications.values():
        specification["byRun"] = len(page.runs) > 1
    return {
        "runs": list(page.runs),
        "steps": list(page.steps),
        "phases": list(page.marks),
        "dashes": list(DASHES),
        "themes": {
            name: {
                "template": template(name).to_plotly_json(),
                "colours": list(theme.colours),
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
