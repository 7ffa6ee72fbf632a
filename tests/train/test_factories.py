import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptlab.errors import ConfigError, PluginError, UnknownNameError
from ckptlab.train.factories import call


def depth_and_width(classes, depth: int = 2, width: float = 1.0, *, names: tuple[str, ...] = ()):
    return classes, depth, width, names


OFFERED = {"classes": 10, "channels": 3}


@given(depth=st.integers(), width=st.floats(allow_nan=False), names=st.lists(st.text()))
def test_options_arrive_as_they_were_given(depth, width, names):
    options = {"depth": depth, "width": width, "names": names}
    found = call(depth_and_width, "model.name", OFFERED, options)
    assert found == (10, depth, width, tuple(names))


def test_a_function_gets_what_it_has_parameters_for():
    assert call(lambda: "nothing", "model.name", OFFERED) == "nothing"
    assert call(lambda channels: channels, "model.name", OFFERED) == 3
    assert call(lambda **given: given, "model.name", OFFERED, {"a": 1}) == {"a": 1}
    assert call(dict, "model.name", OFFERED, {"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"dept": 3}, UnknownNameError, r"'dept'. Did you mean 'depth'\? Accepted: depth, names"),
        ({"classes": 3}, UnknownNameError, "'classes'"),
        ({"depth": 1.5}, ConfigError, r"model\.options\.depth=1\.5 .*accepted: int"),
        ({"depth": "two"}, ConfigError, r"model\.options\.depth='two' .*accepted: int"),
        ({"names": [3]}, ConfigError, r"model\.options\.names=\[3\]"),
    ],
)
def test_options_that_do_not_fit(options, error, said):
    with pytest.raises(error, match=said) as caught:
        call(depth_and_width, "model.name", OFFERED, options)
    assert "\n" not in str(caught.value)


def test_a_parameter_without_a_value_and_a_function_that_fails():
    with pytest.raises(ConfigError, match=r"needs root; set data\.options\.root=\.\.\."):
        call(lambda root: root, "data.name", {})
    with pytest.raises(ConfigError, match=r"set optim\.schedule_options\.power=\.\.\."):
        call(lambda power: power, "optim.schedule", {})
    with pytest.raises(PluginError, match="failed: ZeroDivisionError: division by zero"):
        call(lambda: 1 / 0, "data.name", {})
