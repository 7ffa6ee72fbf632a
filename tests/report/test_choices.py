"""Captions state what a result depends on, from its attributes and nothing else."""

from __future__ import annotations

import xarray as xr

from ckptlab.report.choices import choices_of


def result(**attrs: str) -> xr.Dataset:
    bound = xr.DataArray([1.0], dims="step", attrs={"bound": "2 (1 + momentum) / lr"})
    return xr.Dataset({"stability_bound": bound}, attrs=attrs)


def test_choices_are_those_of_the_attributes() -> None:
    said = choices_of([result(batch_norm="train", data="512 of digits", run="a.zarr")])
    assert said == (
        "Data: 512 of digits; batch norm: train; bound of stability: 2 (1 + momentum) / lr."
    )
    assert choices_of([xr.Dataset(attrs={"run": "a.zarr"})]) == ""


def test_choices_of_experiments_are_named() -> None:
    said = choices_of(
        [xr.Dataset(attrs={"never_pruned": "fc.weight,fc2.weight", "level_0": "dense"})]
    )
    assert said == "Level 0: dense; never pruned: fc.weight, fc2.weight."


def test_choices_that_differ_between_runs_are_all_named() -> None:
    said = choices_of([result(batch_norm="train"), result(batch_norm="eval")])
    assert "batch norm: train or eval" in said.lower()
