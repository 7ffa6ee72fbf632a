"""The registry: one entry gives a command, a method, a row of the documentation."""

from __future__ import annotations

import inspect

import click
import numpy as np
import pytest
import xarray as xr

import ckptlab
from ckptlab.analyze.registry.metrics import METRICS, compute
from ckptlab.analyze.registry.options import OPTIONS
from ckptlab.cli.analyze import analyze
from ckptlab.errors import ConfigError
from tests.analyze.recordings import RUN_IS_ENOUGH, Made


def test_commands_methods_and_registry_agree(wide: Made) -> None:
    context = click.Context(analyze)
    assert set(analyze.list_commands(context)) == {"list", *METRICS}
    accessor = xr.open_zarr(wide.path).ckpt
    assert {name.replace("_", "-") for name in dir(accessor)} >= set(METRICS)
    for name, metric in METRICS.items():
        command = analyze.get_command(context, name)
        flags = {parameter.name for parameter in command.params}
        assert flags >= set(metric.options)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_functions_take_the_options_of_their_entry(name: str) -> None:
    metric = METRICS[name]
    parameters = inspect.signature(metric.function).parameters.values()
    named = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    accepted = set(metric.options) | set(metric.inputs)
    assert set(named) <= accepted
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        assert set(named) == accepted
    assert set(metric.options) <= set(OPTIONS)
    # What help reads from the source file is what Python sees.
    for option, default in named.items():
        if option in metric.options and default is not None:
            assert metric.default(option) == default, option
    assert metric.summary == inspect.getdoc(metric.function).splitlines()[0]
    assert metric.summary.endswith(".")


@pytest.mark.parametrize("name", RUN_IS_ENOUGH)
def test_results_are_as_the_entry_says(made: Made, name: str) -> None:
    result = compute(ckptlab.open_run(made.path), name)
    metric = METRICS[name]
    assert result.attrs["metric"] == name
    assert result.attrs["reference"] == metric.reference
    if isinstance(result, xr.DataArray):
        assert result.name == metric.python_name
        assert result.attrs["units"] == metric.unit
        assert result.dims == metric.dims
    else:
        assert set(metric.dims) <= set(result.dims)
        for variable in result.data_vars.values():
            assert variable.dtype == object or {"units", "long_name"} <= set(variable.attrs)
    from_dataset = getattr(xr.open_zarr(made.path).ckpt, metric.python_name)()
    xr.testing.assert_allclose(from_dataset, result)


def test_whole_numbers_may_be_numpys(made: Made) -> None:
    run = ckptlab.open_run(made.path)
    assert run.analyze("trajectories", count=np.int64(3)).sizes["param"] == 3
    for count in (np.int64(0), 2.0, "3"):
        with pytest.raises(ConfigError, match="must be a whole number >= 1"):
            run.analyze("trajectories", count=count)
