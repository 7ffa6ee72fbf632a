"""What errors say: names that are near, and parameters as their user writes them."""

from __future__ import annotations

import click
import pytest

from ckptlab.cli import cli
from ckptlab.errors import MOST_NAMES, spell, spelled_as_flags, unknown_name


def test_few_names_are_all_listed_and_many_are_not() -> None:
    names = [f"layer{i}.{j}.conv.weight" for i in range(9) for j in range(9)]
    assert len(names) > MOST_NAMES
    text = str(unknown_name("tensor", "layer3.4.conv.wight", names))
    assert text.startswith(
        "unknown tensor 'layer3.4.conv.wight'. Did you mean 'layer3.4.conv.weight'? "
        "Accepted: 81 names, such as layer3.4.conv.weight, "
    )
    assert text.count("conv.weight") == 6
    assert "Accepted: 81 names, such as layer0.0" in str(unknown_name("tensor", "?", names))
    assert str(unknown_name("x", "?", "cab")) == "unknown x '?'. Accepted: a, b, c."


def test_parameters_are_spelled_as_in_python_or_as_flags() -> None:
    assert (spell("steps", "0:9"), spell("full")) == ("steps=0:9", "full")
    with spelled_as_flags({"steps": "--steps", "other": "--with"}.get):
        assert (spell("steps", "0:9"), spell("other")) == ("--steps 0:9", "--with")
        assert spell("seed", 3) == "seed=3"
    assert spell("steps", "0:9") == "steps=0:9"


@pytest.mark.parametrize(
    ("command", "parameter", "flag"),
    [
        (["perturb"], "rewind", "--at"),
        (["imp"], "rewind", "--rewind"),
        (["analyze", "connectivity"], "other", "--with"),
        (["analyze", "sign-flips"], "relative_to", "--relative-to"),
        (["verify"], "memory", "--memory"),
        (["verify"], "rewind", None),
    ],
)
def test_the_running_command_knows_its_flags(command, parameter, flag) -> None:
    from ckptlab.cli import _flag_of

    found: click.Command = cli
    for name in command:
        found = found.get_command(click.Context(found), name)
    with click.Context(found):
        assert _flag_of(parameter) == flag
    assert _flag_of(parameter) is None
