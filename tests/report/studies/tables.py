"""What the tables of a study's page must hold, computed the long way from its results."""

from __future__ import annotations

import csv
import io
import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from scipy import stats

from tests.report.browser import Opened


def stored(folder: Path) -> xr.Dataset:
    """Read results by xarray alone."""
    return xr.open_zarr(folder / "results.zarr").load()


def rows_of(page: Opened, key: str) -> list[dict[str, str]]:
    """Read the CSV file of a chart, as it is saved."""
    with page.tab.expect_download() as download:
        page.tab.click(f"#{key} [data-do=csv]")
    text = Path(download.value.path()).read_bytes().decode()
    return list(csv.DictReader(io.StringIO(text)))


def value_of(results: xr.Dataset, name: str, cell: dict[str, Any]) -> Any:
    """Take one value; `sel` takes a hundred times as long."""
    array = results[name]
    place = tuple(results[d].values.tolist().index(cell[d]) for d in map(str, array.dims))
    return array.values[place]


def expected(results: xr.Dataset, name: str, at: dict[str, Any]) -> tuple[float, float, int]:
    """Take mean and deviation of a cell over the trainings that differ, the long way."""
    values = {}
    for replicate in results["replicate"].values.tolist():
        cell = {**at, "replicate": replicate}
        job = str(value_of(results, "job", cell))
        values.setdefault(job, float(value_of(results, name, cell)))
    known = [value for value in values.values() if not math.isnan(value)]
    if not known:
        return math.nan, math.nan, 0
    mean = math.fsum(known) / len(known)
    if len(known) == 1:
        return mean, math.nan, 1
    variance = math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1)
    return mean, math.sqrt(variance), len(known)


def check_table(
    rows: list[dict[str, str]], results: xr.Dataset, name: str, dims: dict[str, list[Any]]
) -> None:
    """Compare every row with the results themselves, and their order with the grid."""
    assert len(rows) == math.prod(map(len, dims.values()))
    for row, place in zip(rows, product(*dims.values()), strict=True):
        at = dict(zip(dims, place, strict=True))
        assert [row[dim] for dim in dims] == [str(value) for value in place]
        mean, std, count = expected(results, name, at)
        for label, value in ((name, mean), (f"{name} std", std)):
            got = float(row[label]) if row[label] else math.nan
            assert got == pytest.approx(value, rel=1e-12, abs=1e-15, nan_ok=True)
        if "effective" not in name:
            assert int(row["replicates"]) == count
        for replicate in (0, 1):
            exact = float(value_of(results, name, {**at, "replicate": replicate}))
            text = row[f"{name} of replicate {replicate}"]
            assert (float(text) if text else math.nan) == pytest.approx(exact, rel=0, nan_ok=True)
        if name != "effective_std":  # it stands beside accuracy, whose difference is told
            check_difference(row, results, name, at)


def check_difference(
    row: dict[str, str], results: xr.Dataset, name: str, at: dict[str, Any]
) -> None:
    """Compare what a row says of the difference from the baseline with scipy's test of pairs."""
    if not row.get("p"):
        return
    baselines = {"imp": {"level": 0}, "perturb": {"perturbation": "none"}}
    baselines |= {"pretrain": {"length": 0}, "critical": {"duration": 0}}
    base = results[name].sel({**at, **baselines[results.attrs["kind"]]}).values
    values = results[name].sel(at).values
    assert row["test"] == "paired t"
    assert float(row["p"]) == pytest.approx(stats.ttest_rel(values, base).pvalue)
    (difference,) = (float(v) for k, v in row.items() if k.startswith("less "))
    assert difference == pytest.approx((values - base).mean())
    assert float(row["95 % from"]) < difference < float(row["95 % to"])
