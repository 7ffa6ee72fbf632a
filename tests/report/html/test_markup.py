"""Nothing that is written into a page is more than text."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptlab.report.html.markup import Markup, embedded_json, joined, tag


class Read(HTMLParser):
    """What a browser would find."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


characters = st.text(st.characters(exclude_characters="\r\x00", exclude_categories=["Cs"]))


@given(text=characters, title=characters)
def test_text_and_attributes_are_read_back_as_they_were(text: str, title: str) -> None:
    read = Read(tag("p", text, title=title))
    assert read.text == text
    assert read.tags == [("p", {"title": title})]


def test_elements_nest_and_attributes_are_left_out() -> None:
    made = tag("ul", tag("li", "a < b"), None, "&", class_="x", hidden=True, id=None, title=False)
    assert made == '<ul class="x" hidden><li>a &lt; b</li>&amp;</ul>'
    assert tag("input", aria_label='"') == '<input aria-label="&quot;">'
    assert isinstance(joined("<", Markup("<b>")), Markup)
    assert joined("<", Markup("<b>"), 3) == "&lt;<b>3"


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
    text = embedded_json(value)
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")


def test_json_refuses_what_is_no_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded_json([float("nan")])
