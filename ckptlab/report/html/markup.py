"""HTML that cannot be broken by what is written into it: text is escaped unless it is Markup."""

from __future__ import annotations

import html
import json
from typing import Any


class Markup(str):
    """A piece of finished HTML."""

    __slots__ = ()


NOTHING = Markup()


def tag(element: str, /, *children: object, **attributes: object) -> Markup:
    """Make an element.

    Parameters
    ----------
    element : str
        Its name.
    *children : object
        `Markup` is taken as it is, other things as text; None is left out.
    **attributes : object
        A trailing underscore is dropped, others become hyphens; True stands alone, None and False
        are left out.

    Returns
    -------
    Markup
        The element.
    """
    parts = [element]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        parts.append(attribute if value is True else f'{attribute}="{html.escape(str(value))}"')
    opening = f"<{' '.join(parts)}>"
    if element in ("input", "meta"):
        return Markup(opening)
    return Markup(f"{opening}{joined(*children)}</{element}>")


def joined(*children: object) -> Markup:
    """Put pieces one after the other, escaping those that are not Markup; None is left out."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else html.escape(str(child))
            for child in children
            if child is not None
        )
    )


def embedded_json(value: Any) -> str:
    """Write JSON that nothing in it can end or open a script element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
