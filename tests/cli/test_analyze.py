"""``ckptlab analyze`` as a user runs it, on a run that was recorded by the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import ckptlab as package
from ckptlab.analyze.registry.metrics import METRICS
from tests.analyze.recordings import RUN_IS_ENOUGH
from tests.cli.commands import ckptlab


def refuse_constant(text: str) -> None:
    raise AssertionError(f"{text} is not JSON")


def brute_rates(path: Path, kinds: tuple[str, ...] | None, against: str) -> np.ndarray:
    dataset = xr.open_zarr(path)
    signs = np.sign(dataset["weights"].values)
    table = dataset.attrs["tensors"]
    if kinds is not None:
        chosen = np.array([row["kind"] in kinds for row in table])
        signs = signs[chosen[dataset["tensor_index"].values]]
    before = signs[:, :-1] if against == "previous" else signs[:, :1]
    rates = (signs[:, 1:] * before < 0).sum(axis=0) / len(signs)
    return np.concatenate([[np.nan if against == "previous" else 0.0], rates])


@pytest.mark.parametrize("against", ["previous", "init"])
@pytest.mark.parametrize("kinds", [None, "all"])
def test_sign_flips_equal_brute_force_to_the_last_count(
    small_run: Path, call, kinds: str | None, against: str
) -> None:
    extra = [] if kinds is None else ["--kinds", kinds]
    arguments = ["sign-flips", small_run, "--relative-to", against, *extra, "--json"]
    code, out, err = call("analyze", *arguments)
    assert code == 0, err
    document = json.loads(out, parse_constant=refuse_constant)
    got = np.array(document["data"], float)
    wanted = brute_rates(small_run, None if kinds else ("conv", "linear"), against)
    count = document["attrs"]["weights"]
    np.testing.assert_array_equal((got * count).round(9), (wanted * count).round(9))
    assert document["coords"]["step"]["data"] == list(range(41))


def test_help_starts_at_once_and_reading_needs_no_torch(small_run: Path) -> None:
    code = (
        "import sys\n"
        "from ckptlab.cli import _run\n"
        "assert _run(sys.argv[2:], True) == 0\n"
        "heavy = set(sys.argv[1].split(',')) & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    everything = "torch,numba,dask,xarray,numpy,plotly,rich"
    for heavy, arguments in (
        (everything, ["analyze", "--help"]),
        (everything, ["analyze", "sign-flips", "--help"]),
        ("torch,numba,dask,xarray,plotly", ["analyze", "list"]),
        ("torch", ["analyze", "telemetry", str(small_run)]),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, heavy, *arguments], capture_output=True, text=True
        )
        assert done.returncode == 0, (arguments, done.stderr)


def test_list_shows_every_metric(call) -> None:
    entries = json.loads(call("analyze", "list", "--json")[1])
    assert [entry["name"] for entry in entries] == list(METRICS)
    table = call("analyze", "list")[1]
    assert all(name in table for name in METRICS)


def test_a_table_and_where_the_files_are(small_run: Path, tmp_path: Path, call) -> None:
    page, data = tmp_path / "flips.html", tmp_path / "flips.nc"
    done = ckptlab("analyze", "sign-flips", small_run, "--by", "layer", "-o", data, "--plot", page)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [str(data), str(page)]
    assert "shown: 14 of 41 rows" in done.stdout
    text = page.read_text()
    assert "plotly.js v" in text
    assert "<script src=" not in text
    expected = package.open_run(small_run).analyze("sign-flips", by="layer")
    written = xr.load_dataset(data)["sign_flips"]
    np.testing.assert_array_equal(written.values, expected.values)
    assert written.attrs["units"] == "1"
    assert written.attrs["relative_to"] == "previous"
    code, _, err = call("analyze", "sign-flips", small_run, "-o", data)
    assert code == 2
    assert "exists; give another name, or --overwrite" in err
    with xr.open_dataset(data):  # one that is open is replaced all the same
        code, _, err = call("analyze", "cosine", small_run, "-o", data, "--overwrite")
    assert code == 0, err
    assert "cosine" in xr.load_dataset(data)


@pytest.mark.parametrize("suffix", ["zarr", "nc", "csv", "parquet"])
@pytest.mark.parametrize("name", ["telemetry", "timeline", "subspace", "trajectories"])
def test_files_keep_values_and_attributes(
    small_run: Path, tmp_path: Path, name: str, suffix: str
) -> None:
    from ckptlab.cli.results import save

    result = package.open_run(small_run).analyze(name)
    dataset = result if isinstance(result, xr.Dataset) else result.to_dataset()
    path = tmp_path / f"result.{suffix}"
    save(result, str(path))
    if suffix in ("zarr", "nc"):
        written = xr.open_zarr(path) if suffix == "zarr" else xr.open_dataset(path)
        assert written.attrs["metric"] == name
        for variable, values in dataset.data_vars.items():
            np.testing.assert_array_equal(
                written[variable].values.astype(values.dtype), values.values
            )
            assert written[variable].attrs.items() >= values.attrs.items()
        return
    if suffix == "csv":
        frame = pd.read_csv(path)
        attributes = json.loads(Path(f"{path}.json").read_text())
    else:
        import pyarrow.parquet as pq

        frame = pd.read_parquet(path)
        attributes = json.loads(pq.read_schema(path).metadata[b"ckptlab"])
    assert attributes["attributes"]["metric"] == name
    assert len(frame) == int(np.prod(list(dataset.sizes.values())))
    assert set(frame.columns) >= {*map(str, dataset.data_vars), *map(str, dataset.dims)}


@pytest.mark.parametrize("name", RUN_IS_ENOUGH)
def test_json_is_one_document_without_nan(small_run: Path, name: str) -> None:
    from ckptlab.cli.options import finite

    result = package.open_run(small_run).analyze(name)
    text = json.dumps(finite(result.to_dict()), allow_nan=False)
    document = json.loads(text)
    assert document["attrs"]["metric"] == name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sign-flip", "{run}"], "Did you mean 'sign-flips'"),
        (["sign-flips", "{run}", "--relative-to", "99"], "step 99 was not recorded"),
        (["sign-flips", "{run}", "--relative-to", "99"], "Use --relative-to 40, the nearest"),
        (["sign-flips", "{run}", "--kinds", "norm"], "or --kinds all."),
        (["connectivity", "{run}"], "--with RUN[@STEP]"),
        (["sign-flips", "{run}", "--scheduler", "foo://x"], "unknown --scheduler 'foo://x'"),
        (["sign-flips", "{run}", "--steps", "5:5"], "holds no step"),
        (["sign-flips", "{run}", "--steps", "0:500"], "beyond the last recorded step 40"),
        (["sign-flips", "{run}", "--kinds", "conf"], "Did you mean 'conv'"),
        (["sign-flips", "{run}", "--mask", "no.npy"], "does not exist"),
        (["sign-flips", "{run}", "-o", "x.xls"], "must be one of .nc, .zarr, .csv, .parquet"),
        (["sign-flips", "{run}", "--plot", "x.pdf"], "must be one of .html, .png, .svg"),
        (["sign-flips", "{run}", "-o", "no/where.nc"], "folder no does not exist"),
        (["trajectories", "{run}", "--count", "0"], "--count"),
        (["sign-flips", "nowhere.zarr"], "nowhere.zarr"),
        (["sign-flips"], "RUN"),
        (["sign-flips", "{run}", "--steps", "40:41:2", "--by", "layers"], "value of --by 'layers'"),
        (["nomod:metric", "{run}"], "metric nomod:metric: nomod cannot be imported"),
        (["sign-flips", "{run}", "--memory", "1MiB"], "--memory 1MiB is too little"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    small_run: Path,
    arguments: list[str],
    message: str,
    call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call("analyze", *(a.format(run=small_run) for a in arguments))
    assert code == 2
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
