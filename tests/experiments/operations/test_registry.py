import pytest

from ckptlab.errors import ConfigError, UnknownNameError
from ckptlab.experiments.operations.registry import PERTURBATIONS, parse_kind


@pytest.mark.parametrize(
    ("text", "canonical", "needs"),
    [
        ("none", "none", []),
        ("sign:0,magnitude:k", "sign:0,magnitude:k", ["0"]),
        ("sign:fresh,magnitude:k", "sign:fresh,magnitude:k", ["fresh"]),
        ("constant:fresh", "constant:fresh", ["fresh"]),
        ("shuffle:global", "shuffle:global", []),
        ("shuffle:filter,keep-signs", "shuffle:filter,keep-signs", []),
        ("shuffle:layer,initial-signs", "shuffle:layer,initial-signs", ["0"]),
        (" noise:1 ", "noise:1.0", []),
        ("noise:0.50", "noise:0.5", []),
        ("reinit", "reinit", ["fresh"]),
    ],
)
def test_kinds_are_read_and_written_in_one_spelling(text, canonical, needs):
    kind = parse_kind(text)
    assert str(kind) == canonical
    assert parse_kind(canonical) == kind
    assert [state for state in ("0", "fresh") if kind.needs(state)] == needs


@pytest.mark.parametrize(
    "text",
    [
        "none:1",
        "sign:0",
        "sign:0,magnitude",
        "sign:0,magnitude:2",
        "sign:1,magnitude:k",
        "shuffle",
        "shuffle:tensor",
        "shuffle:layer,signs",
        "noise",
        "noise:-1",
        "noise:nan",
        "noise:inf",
        "noise:0",
        "noise:a",
        "constant",
        "constant:2",
        "reinit:0",
    ],
)
def test_what_is_not_of_the_form_is_refused(text):
    form = PERTURBATIONS[text.partition(":")[0]].form
    with pytest.raises(ConfigError) as caught:
        parse_kind(text)
    assert repr(text) in str(caught.value)
    assert str(caught.value).endswith(form)


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'shuffle'"):
        parse_kind("shuffel:layer")


def test_every_entry_names_a_function():
    for entry in PERTURBATIONS.values():
        assert callable(entry.function)
        assert entry.summary.endswith(".")
        assert entry.reference
