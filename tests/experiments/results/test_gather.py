import numpy as np
import pytest
import xarray as xr
from scipy import stats

from ckptlab.errors import StoreError
from ckptlab.experiments.jobs.job import MeasureJob, TrainJob
from ckptlab.experiments.jobs.scheduler import read_outcome
from ckptlab.experiments.operations.pruning import prunable
from ckptlab.experiments.plans.imp import Pruner, plan_imp
from ckptlab.experiments.plans.perturb import plan_perturb
from ckptlab.experiments.results.gather import gather, write_results
from ckptlab.experiments.results.open import open_results
from ckptlab.experiments.results.summary import summarise
from ckptlab.train.config import load_config
from tests.experiments.small import SETTINGS, Bench, do


@pytest.fixture(scope="module")
def series(dense, tmp_path_factory):
    """Two levels of pruning, and both controls, done."""
    bench = Bench(dense, tmp_path_factory.mktemp("series"))
    pruner = Pruner(levels=2)
    plan_imp(bench.plan, bench.parents, rewind=[8], pruner=pruner, pruning=["imp", "one-shot"])
    bench.do_all()
    return bench


def outcome_of(bench: Bench):
    return read_outcome(bench.plan, bench.folder)


def test_cells_are_what_the_runs_say(series):
    results = gather(series.plan, series.folder, outcome_of(series))
    assert results.accuracy.dims == ("pruning", "rewind", "level", "replicate")
    for cell in series.plan.cells:
        run = series.stored if cell.run == series.parent.run else series.open(cell.run)
        at = results.sel(cell.at)
        assert at.accuracy.item() == run.small("eval_accuracy")[-1]
        assert at.loss.item() == run.small("eval_loss")[-1]
        assert at.job.item() == cell.run
        assert at.state.item() == "done"
    total = int(prunable(series.stored.layout).sum())
    first = total - round(0.2 * total)
    counts = [total, first, first - round(0.2 * first)]
    assert (results.density.sel(pruning="imp").squeeze() * total).round().values.tolist() == counts
    assert results.rewind.attrs["units"] == "optimizer updates"
    assert results.attrs["complete"] == 1


def test_masks_of_one_series_are_an_array(series, tmp_path):
    write_results(series.plan, series.folder, outcome_of(series))
    stored = xr.open_zarr(series.folder.results)
    assert stored.mask.dims == ("param", "level")
    for cell in series.plan.cells:
        if cell.at["pruning"] == "imp" and cell.at["level"]:
            expected = series.open(cell.run).mask()
            assert np.array_equal(stored.mask.sel(level=cell.at["level"]).values, expected)
    assert stored.mask.sel(level=0).values.all()
    assert [row["name"] for row in stored.attrs["tensors"]] == list(series.stored.layout.names)


def test_a_mask_of_it_selects_weights_of_the_run(series):
    from ckptlab.run import open_run

    write_results(series.plan, series.folder, outcome_of(series))
    result = open_run(series.stored.path).analyze(
        "sign-flips", mask=f"{series.folder.results}@2", relative_to="init"
    )
    mask = xr.open_zarr(series.folder.results).mask.sel(level=2).values
    weights = xr.open_zarr(series.stored.path).weights.values
    kept = mask & prunable(series.stored.layout)
    flips = (np.sign(weights) * np.sign(weights[:, :1]) < 0)[kept].mean(0)
    np.testing.assert_array_equal(result.values, flips)


def test_partial_results_say_what_is_open(dense, tmp_path):
    bench = Bench(dense, tmp_path)
    plan_imp(bench.plan, bench.parents, rewind=[8], pruner=Pruner(levels=2))
    nothing = gather(bench.plan, bench.folder, outcome_of(bench))
    assert nothing.state.values.ravel().tolist() == ["done", "open", "open"]
    assert np.isnan(nothing.accuracy.values.ravel()[1:]).all()
    assert nothing.attrs["complete"] == 0
    assert "mask" not in nothing
    first = next(iter(bench.plan.jobs))
    do(bench, first)
    partly = gather(bench.plan, bench.folder, outcome_of(bench))
    assert partly.state.values.ravel().tolist() == ["done", "done", "open"]
    assert np.isfinite(partly.accuracy.values.ravel()[:2]).all()


def test_partial_measurements_hold_texts_and_numbers(dense, tmp_path):
    """As long as one replicate is not measured, its numbers are missing and its texts empty."""
    bench = Bench(dense, tmp_path, kind="record")
    for replicate in (0, 1):
        config = load_config(overrides=[*SETTINGS, f"train.seed={replicate}", "eval.steps=0,48"])
        run = bench.plan.add(TrainJob(config=config))
        for metric in ("timeline", "telemetry"):
            job = MeasureJob(metric=metric, run=run)
            bench.plan.put(bench.plan.add(job), replicate=replicate)
    bench.do_all()
    whole = gather(bench.plan, bench.folder, outcome_of(bench))
    texts = [name for name, v in whole.data_vars.items() if v.dtype.kind in "TUO"]
    assert set(texts) > {"job", "state"}
    outcome = outcome_of(bench)
    last = {cell.run for cell in bench.plan.cells if cell.at["replicate"] == 1}
    outcome.done -= last
    write_results(bench.plan, bench.folder, outcome)
    part = open_results(bench.folder.path)
    for name in set(whole.data_vars) - {"job", "state"}:
        xr.testing.assert_equal(part[name].isel(replicate=0), whole[name].isel(replicate=0))
        missing = part[name].isel(replicate=1)
        assert (missing == "" if name in texts else missing.isnull()).all()


def test_replicates_differ_where_they_should(dense, tmp_path):
    bench = Bench(dense, tmp_path, replicates=3, kind="perturb")
    kinds = ["none", "sign:0,magnitude:k", "noise:1.0", "reinit"]
    plan_perturb(bench.plan, bench.parents, rewind=[8], perturbations=kinds)
    # Only what is drawn is drawn again.
    assert len(bench.plan.jobs) == 1 + 1 + 3 + 3
    varied = Bench(dense, tmp_path, replicates=3, kind="perturb")
    plan_perturb(varied.plan, varied.parents, rewind=[8], perturbations=kinds, vary=["order"])
    assert len(varied.plan.jobs) == 12


def test_tables_are_mean_and_sample_deviation():
    accuracy = np.array([[[0.5, 0.7, np.nan]], [[0.9, 0.9, 0.9]]])
    state = np.array([[["done", "done", "open"]], [["done"] * 3]], object)
    job = np.array([[["a", "b", "c"]], [["d", "e", "e"]]], object)
    results = xr.Dataset(
        {
            "accuracy": (("perturbation", "rewind", "replicate"), accuracy),
            "state": (("perturbation", "rewind", "replicate"), state),
            "job": (("perturbation", "rewind", "replicate"), job),
        },
        {"perturbation": ["none", "reinit"], "rewind": [8], "replicate": [0, 1, 2]},
    )
    summary = summarise(results)
    assert summary.columns == ("perturbation", "accuracy", "done")
    deviation = np.std([0.5, 0.7], ddof=1)
    assert summary.rows == [
        ("none", f"0.6000 ± {deviation:.4f} (2)", "2/3"),
        ("reinit", "0.9000 ± 0.0000 (2)", "3/3"),
    ]
    # Both replicates of the one that have a partner: 0.4 and 0.2 more.
    compared = summarise(results.assign_attrs(kind="perturb"))
    assert compared.columns == ("perturbation", "accuracy", "accuracy − unperturbed", "done")
    low, high = stats.t.interval(0.95, 1, 0.3, 0.1)
    p = stats.ttest_1samp([0.4, 0.2], 0).pvalue
    assert [row[2] for row in compared.rows] == [
        "–",
        f"+0.3000 [{low:+.4f}, {high:+.4f}], p = {p:.2g}",
    ]


def test_what_is_no_results_is_refused(tmp_path, dense):
    for path in (tmp_path, dense, tmp_path / "none.zarr"):
        with pytest.raises(StoreError, match="holds no results of an experiment"):
            open_results(path)
