"""Options that several commands share, and JSON output."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ckptlab.record.convert.find_checkpoints import Choice

Function = TypeVar("Function", bound=Callable[..., Any])

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


_CHOICE = (
    click.option("--pattern", help="Which files or folders in FOLDER: 'stage1-*', '*.pt'."),
    click.option("--step-from", help="Regular expression whose group is the step: 'upd(\\d+)'."),
    click.option(
        "--steps-per-epoch",
        type=click.IntRange(1),
        help="Where names count epochs and steps in them.",
    ),
    click.option("--key", help="The dict that holds the weights: state.model."),
    click.option("--weights", help="Which copy of the weights: model (default), ema, or a name."),
    click.option("--reader", help="Read all by this reader, or by module:function."),
)


def choice_options(command: Function) -> Function:
    """Add the options that say which checkpoints a series has; `choice_of` reads them."""
    for option in reversed(_CHOICE):
        command = option(command)
    return command


def choice_of(options: Mapping[str, Any]) -> Choice:
    """Make the choice that options of `choice_options` stand for."""
    from ckptlab.record.convert.find_checkpoints import Choice
    from ckptlab.registry import allow, is_reference

    if options["reader"] and is_reference(options["reader"]):
        allow(options["reader"])
    return Choice(**options)


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
