"""Every step observed, some stored: the same numbers as the pass over the weights."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

import ckptlab
from ckptlab.analyze.engine.source import StoredSource
from ckptlab.analyze.registry.metrics import compute
from ckptlab.analyze.weights.overview import survey
from ckptlab.errors import ConfigError
from ckptlab.record.pipeline import observer
from ckptlab.record.pipeline.observe_kernel import observe
from ckptlab.store.maintain.repack import repack
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from tests.record.loops import Oops, assert_same_run, everything, record, run, small


class Weights(StoredSource):
    """A source that is measured by its weights alone."""


floats = st.one_of(st.floats(-2, 2, width=32), st.sampled_from([0.0, -0.0, np.nan]))


@given(
    nps.arrays(np.float32, st.tuples(st.just(3), st.integers(0, 150)), elements=floats), st.data()
)
def test_kernel_and_device_sum_as_numpy_does(vectors, data):
    now, before, first = vectors
    cuts = sorted(data.draw(st.lists(st.integers(0, now.size), max_size=3)))
    offsets = np.array([0, *cuts, now.size])
    tensors = len(offsets) - 1
    shapes = ((7, np.float64), (4, np.int32), (2, np.float32))
    found = [np.zeros((rows, tensors), dtype) for rows, dtype in shapes]
    observe(now, before, first, offsets, *found)
    device = [
        torch.zeros((rows, tensors), dtype=getattr(torch, np.dtype(d).name)) for rows, d in shapes
    ]
    sizes = torch.from_numpy(np.diff(offsets))
    observer._sum_part(*map(torch.from_numpy, (now, before, first)), sizes, *device)
    for t in range(tensors):
        x, y, z = (v[offsets[t] : offsets[t + 1]].astype(float) for v in (now, before, first))
        sums = [abs(x), x * x, (x - y) ** 2, (x - z) ** 2, x, x * y, x * z]
        counts = [np.sign(x) ** 2 == 1, x * np.sign(y) < 0, x * np.sign(z) < 0, np.isnan(x)]
        known = x[~np.isnan(x)]
        for one in (found, [part.numpy() for part in device]):
            assert one[0][:, t] == pytest.approx([s.sum() for s in sums], nan_ok=True, abs=1e-12)
            assert one[1][:, t].tolist() == [np.count_nonzero(c) for c in counts]
            assert one[2][0, t] == min(known, default=np.inf)
            assert one[2][1, t] == max(known, default=-np.inf)


def train(path, make=small, stop=40, **options):
    model, optimizer = make()
    with record(path, model, optimizer, block=8, **options) as recorder:
        run(recorder, model, optimizer, stop)
        if stop < 40:
            raise Oops
        recorder.evaluate(loss=1.0, accuracy=0.75)


@pytest.fixture(scope="module", params=[small, everything])
def runs(request, tmp_path_factory):
    """One training thrice: stored densely, observed only, and both."""
    folder = tmp_path_factory.mktemp("observed")
    train(folder / "dense", request.param)
    train(folder / "both", request.param, observe="0:")
    train(folder / "sparse", request.param, observe="0:", steps="0, 10, 20", flush_seconds=0)
    return folder


@pytest.mark.parametrize("by", ["network", "layer", "tensor"])
@pytest.mark.parametrize(
    ("metric", "relative_to"),
    [
        ("weight-distance", "init"),
        ("weight-distance", "previous"),
        ("weight-change", None),
        ("relative-change", "previous"),
        ("relative-change", "init"),
        ("weight-magnitude", None),
        ("sign-flips", "previous"),
        ("sign-flips", "init"),
        ("cosine", "init"),
        ("cosine", "previous"),
        ("effective-std", "init"),
        ("effective-std", "previous"),
    ],
)
def test_metrics_are_those_of_the_weights(runs, metric, relative_to, by):
    options = {"by": by, "kinds": "all", "steps": "0:35:3"}
    options |= {} if relative_to is None else {"relative_to": relative_to}
    expected = compute(Weights(open_store(runs / "dense")), metric, **options)
    for name in ("both", "sparse"):
        found = compute(open_store(runs / name), metric, **options)
        assert found["step"].values.tolist() == expected["step"].values.tolist()
        exact = metric == "sign-flips"
        xr.testing.assert_allclose(found, expected, rtol=0 if exact else 1e-6, atol=1e-7)
        assert found.attrs.items() >= {"units": expected.attrs["units"]}.items()


def test_telemetry_holds_everything_but_what_is_against_the_end(runs):
    expected = ckptlab.open_run(runs / "dense").analyze("telemetry", kinds="all")
    for name in ("both", "sparse"):
        found = ckptlab.open_run(runs / name).analyze("telemetry", kinds="all")
        missing = set(expected.data_vars) - set(found.data_vars)
        assert missing == {f"{n}_final" for n in ("weight_distance", "cosine", "sign_flips")}
        xr.testing.assert_allclose(found, expected[list(found.data_vars)], rtol=1e-6, atol=1e-7)


def test_the_timeline_needs_stored_snapshots_only_where_phases_begin(runs):
    expected = ckptlab.open_run(runs / "dense").analyze("timeline")
    for name in ("both", "sparse"):
        found = ckptlab.open_run(runs / name).analyze("timeline")
        xr.testing.assert_allclose(found, expected, rtol=1e-6)
        assert found["agrees"].values.tolist() == expected["agrees"].values.tolist()


def test_a_timeline_says_which_snapshots_it_lacks(tmp_path):
    train(tmp_path, observe="0:", steps="0")
    first, second = ckptlab.open_run(tmp_path).analyze("timeline")["text"].values.tolist()
    assert " in all, " not in second
    assert "an update (the snapshots at its ends are not stored)" in first + second


def test_a_survey_of_observed_steps_pools_its_layers(runs):
    found = survey(open_store(runs / "sparse"))
    expected = survey(Weights(open_store(runs / "dense")))
    assert found.network.sizes["step"] == 41
    xr.testing.assert_allclose(found.layers, expected.layers, rtol=1e-6, atol=1e-7)


def test_what_needs_weights_reads_those_that_are_stored(runs):
    found = ckptlab.open_run(runs / "sparse").analyze("weight-distance", relative_to="final")
    assert found["step"].values.tolist() == [0, 10, 20, 40]
    mask = np.ones(open_store(runs / "sparse").layout.parameters, bool)
    masked = ckptlab.open_run(runs / "sparse").analyze("weight-distance", mask=mask)
    assert masked["step"].values.tolist() == [0, 10, 20, 40]


def test_the_store_is_whole_and_open_to_others(runs, tmp_path):
    for name in ("both", "sparse"):
        assert verify(runs / name, deep=True).ok
    stored = open_store(runs / "sparse")
    assert stored.steps.tolist() == [0, 10, 20, 40]
    assert stored.observed.tolist() == list(range(41))
    dense = open_store(runs / "dense")
    for name in ("loss", "lr", "gradient_norm", "gradient_mean_abs"):
        expected, found = dense.small(name), stored.small(f"observed_{name}")
        assert np.array_equal(found, expected, equal_nan=True), name
    with xr.open_zarr(runs / "sparse") as dataset:
        assert dataset["observed_sums"].dims == ("sums", "tensor", "observed_step")
        assert dataset["observed_step"].values.tolist() == list(range(41))
    repack(runs / "sparse", tmp_path / "copy", codec="raw")
    assert_same_run(tmp_path / "copy", runs / "sparse")
    assert verify(tmp_path / "copy", deep=True).ok


@pytest.mark.parametrize("steps", ["0:", "0, 10, 20, 30"])
@pytest.mark.parametrize("stops", [(3,), (13, 25), (20,), (39,)])
def test_resuming_observes_the_same(tmp_path, steps, stops, monkeypatch):
    monkeypatch.setattr(observer, "CAPACITY", 8)
    options = {"steps": steps, "observe": "0:"}
    train(tmp_path / "a", **options)
    for before, stop in zip((0, *stops), (*stops, 40), strict=True):
        if stop < 40:
            with pytest.raises(Oops):
                train(tmp_path / "b", stop=stop, resume=before > 0, **options)
        else:
            train(tmp_path / "b", resume=True, **options)
    assert_same_run(tmp_path / "b", tmp_path / "a")
    assert verify(tmp_path / "b", deep=True).ok


def test_a_previous_step_that_a_resume_has_lost_is_not_made_up(tmp_path):
    options = {"observe": "0::10"}
    with pytest.raises(Oops):
        train(tmp_path, stop=15, **options)
    train(tmp_path, resume=True, **options)
    found = ckptlab.open_run(tmp_path).stored
    assert found.observed.tolist() == [0, 10, 20, 30, 40]
    distance = found.small("observed_sums")[2]
    assert np.isnan(distance[:, 2]).all()
    assert np.isfinite(distance[:, [1, 3, 4]]).all()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"observe": 5}, r'observe=5 is not a schedule; accepted: "0:5"'),
        ({"observe": "3:"}, r"compares with step 0, which observe='3:' leaves out; add it"),
        ({"observe": "0:", "steps": "3:"}, r"compares with step 0, which steps='3:' leaves out"),
    ],
)
def test_an_observation_that_cannot_be_is_refused(tmp_path, options, problem):
    model, optimizer = small()
    with pytest.raises(ConfigError, match=problem):
        record(tmp_path / "run", model, optimizer, **options)
    assert not (tmp_path / "run").exists()


def test_resuming_needs_the_same_observations(tmp_path):
    with pytest.raises(Oops):
        train(tmp_path, stop=5, observe="0:")
    model, optimizer = small()
    with (
        pytest.raises(ConfigError, match="observe=None is not what the run observes, '0:'"),
        record(tmp_path, model, optimizer, resume=True),
    ):
        pass
