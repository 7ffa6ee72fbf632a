"""Options that several commands share, and JSON output."""

from __future__ import annotations

import json
import math
from typing import Any

import click

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document instead of a table."
)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout, with NaN and infinities as null."""
    click.echo(json.dumps(finite(document), allow_nan=False))


def finite(value: Any) -> Any:
    """Replace NaN and infinities by None, in nested lists and dicts."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
