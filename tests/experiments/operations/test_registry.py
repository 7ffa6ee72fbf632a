import sys

import numpy as np
import pytest

import ckptlab
from ckptlab.errors import ConfigError, LayoutError, UnknownNameError, UntrustedNameError
from ckptlab.experiments.operations.perturbations import perturb
from ckptlab.experiments.operations.registry import PERTURBATIONS, parse_kind
from ckptlab.registry import allow
from tests.experiments.operations.test_perturbations import states_of


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


def test_a_user_s_function_becomes_a_kind_with_its_options():
    @ckptlab.perturbation(name="test-rotate", reference="nobody")
    def rotate(weights, initial, rng, *, places=1, back=False):
        """Shift the survivors."""
        return np.roll(weights, -places if back else places)

    kind = parse_kind("test-rotate:places=3")
    assert str(kind) == "test-rotate:places=3,back=False"
    assert str(parse_kind("test-rotate:back=true")) == "test-rotate:places=1,back=True"
    assert kind.needs("0")
    assert not kind.needs("fresh")
    entry = kind.perturbation
    assert (entry.draws, entry.scaled, entry.summary) == (True, False, "Shift the survivors.")
    assert entry.code
    states = states_of(0)
    expected = np.roll(states.of("k"), 3)
    assert np.array_equal(
        perturb(states, kind, np.random.default_rng(0))[states.survivors], expected
    )
    for text in ("test-rotate:places=a", "test-rotate:turns=1", "test-rotate:back=1"):
        with pytest.raises(ConfigError, match=r"is not of the form test-rotate\[:places=1"):
            parse_kind(text)


def test_a_function_with_another_number_of_values_is_refused():
    @ckptlab.perturbation(name="test-short")
    def short(weights):
        return weights[1:]

    with pytest.raises(LayoutError, match="one value for each survivor"):
        perturb(states_of(0), parse_kind("test-short"), np.random.default_rng(0))


def test_a_module_s_function_is_imported_only_if_the_user_wrote_it(tmp_path, monkeypatch):
    (tmp_path / "own_changes.py").write_text(
        "def halve(weights, *, by=2.0):\n    'Shrink.'\n    return weights / by\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UntrustedNameError, match="own_changes:halve"):
        parse_kind("own_changes:halve")
    assert "own_changes" not in sys.modules
    allow("own_changes:halve")
    kind = parse_kind("own_changes:halve:by=4")
    assert str(kind) == "own_changes:halve:by=4.0"
    assert parse_kind(str(kind)).options == {"by": 4.0}


def test_a_module_may_be_called_as_its_perturbation(tmp_path, monkeypatch):
    (tmp_path / "turned.py").write_text(
        "import ckptlab\n"
        "@ckptlab.perturbation()\n"
        "def turned(weights, share: float = 0.5):\n"
        '    """Turn the weights round."""\n'
        "    return -share * weights\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    allow("turned:turned")
    for text in ("turned:turned", "turned:turned", "turned:turned:share=0.1"):
        assert parse_kind(text).perturbation.function is not None
