"""Text in a page stays text, whatever it holds."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptlab.report.html.outline import Content, Facts, Heading, Row, Table, Tiles, Value
from ckptlab.report.page import environment

ENVIRONMENT = environment()
PARTS = ENVIRONMENT.get_template("parts.html").module
TO_JSON = ENVIRONMENT.from_string("{{ value | tojson }}")


def html_of(*parts: Content) -> str:
    """Render parts of a page as the page does."""
    return "".join(str(PARTS.content(part)) for part in parts)


class Read(HTMLParser):
    """What a browser would find."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


characters = st.text(st.characters(exclude_characters="\r\x00", exclude_categories=["Cs"]))


@given(text=characters, title=characters)
def test_text_and_attributes_are_read_back_as_they_were(text: str, title: str) -> None:
    table = Table(
        style="compare",
        label=title,
        corner="",
        heads=(Heading(text, run=3),),
        rows=(Row(name=title, cells=((Value(text, run=0, verdict="known"),),)),),
    )
    for part, names in (
        (Tiles(((title, text),)), ["dl", "div", "dt", "dd"]),
        (Facts({title: {text: text}}), ["div", "section", "h3", "dl", "dt", "dd"]),
        (table, None),
    ):
        read = Read(html_of(part))
        if names is not None:
            assert [name for name, _ in read.tags] == names
        whole = "".join(read.texts)
        assert text in whole
        assert title in whole or part is table
    assert read.tags[0][1]["aria-label"] == title
    names = [name for name, _ in read.tags]
    head = ["div", "table", "thead", "tr", "th", "span", "th", "i"]
    assert names == [*head, "tbody", "tr", "th", "td", "span", "i", "span"]


@given(
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text("<>&/scriptx!-", max_size=9), inner)
        ),
    )
)
def test_json_is_read_back_and_never_ends_its_element(value: object) -> None:
    text = TO_JSON.render(value=value)
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")


def test_json_refuses_what_is_no_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        TO_JSON.render(value=[float("nan")])


def test_an_unknown_name_in_a_template_is_an_error() -> None:
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError):
        ENVIRONMENT.from_string("{{ missing }}").render()
