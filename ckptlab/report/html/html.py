"""The HTML of a page: its head, the bar of switches, sections and figures."""

from __future__ import annotations

from ckptlab.report.html.charts import Chart, LineChart
from ckptlab.report.html.heatmaps import HeatChart, SpaceChart
from ckptlab.report.html.markup import Markup, joined, tag
from ckptlab.report.html.outline import Page, Section


def header(page: Page) -> Markup:
    """Make what is read first: title, notices, key figures and contents.

    Parameters
    ----------
    page : Page
        All of it.

    Returns
    -------
    Markup
        With a link that skips it.
    """
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


def bar(page: Page) -> Markup:
    """Make the bar of switches, of which a page has those that change something on it.

    Parameters
    ----------
    page : Page
        All of it.

    Returns
    -------
    Markup
        Always with the theme.
    """
    switches = (
        _legend(page) if len(page.runs) > 1 else None,
        _segments("axis", page.switch, {"log": "log", "linear": "linear"}) if page.switch else None,
        _span(*page.steps) if page.steps else None,
        _segments("theme", "Theme", {"auto": "auto", "light": "light", "dark": "dark"}),
        tag("output", class_="at", aria_live="off") if page.steps else None,
    )
    return tag("div", tag("div", *switches), class_="bar", role="region", aria_label="Switches")


def _legend(page: Page) -> Markup:
    entries = (
        tag(
            "label",
            tag("input", type="checkbox", name="shown", value=run, checked=True),
            tag("i", class_="swatch", data_run=run),
            name,
        )
        for run, name in enumerate(page.runs)
    )
    return tag("fieldset", tag("legend", page.legend), *entries, class_="runs")


def _span(first: int, last: int) -> Markup:
    bounds = {"type": "number", "min": first, "max": last, "step": 1}
    return tag(
        "fieldset",
        tag("legend", "Steps"),
        tag("label", tag("span", "from"), tag("input", name="from", value=first, **bounds)),
        tag("label", tag("span", "to"), tag("input", name="to", value=last, **bounds)),
        tag("button", "all", type="button", data_do="reset", hidden=True),
        class_="range",
    )


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


def section(part: Section) -> Markup:
    """Make a section, with room for its charts.

    Parameters
    ----------
    part : Section
        What it holds.

    Returns
    -------
    Markup
        The page's script draws the charts.
    """
    choice = None
    if part.choice and len(part.choice.options) > 1:
        options = {str(k): name for k, name in enumerate(part.choice.options)}
        name = f"{part.choice.name}-{part.key}"
        choice = tag("div", _segments(name, part.choice.legend, options), class_="choice")
    charts = None
    if part.charts:
        charts = tag(
            "div",
            *(_figure(chart, part.arranged) for chart in part.charts),
            class_=f"grid {part.arranged}",
        )
    return tag(
        "section",
        tag("h2", part.title, id=f"{part.key}-title"),
        tag("p", part.text) if part.text else None,
        choice,
        part.markup,
        charts,
        part.closing,
        id=part.key,
        aria_labelledby=f"{part.key}-title",
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
        tag("ul", class_="key") if chart.has_key else None,
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
