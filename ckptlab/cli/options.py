"""Options that several commands share, and JSON output."""

from __future__ import annotations

import json
import math
from typing import Any

import click

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document instead of a table."
)


def _use_data_root(ctx: click.Context, option: click.Parameter, value: str | None) -> None:  # noqa: ARG001
    from ckptlab.train.data_root import use_data_root

    if value is not None:
        use_data_root(value)


data_root_option = click.option(
    "--data-root",
    metavar="DIR",
    expose_value=False,
    callback=_use_data_root,
    help="Folder of the images, in place of the one a run names.",
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
