"""What a watch reads: the same numbers as the metrics, from small arrays alone."""

import shutil

import numpy as np
import pytest

import ckptlab
from ckptlab.errors import StoreError
from ckptlab.report.watch.feed import REMOTE_BYTES, Feed
from ckptlab.report.watch.text import describe
from tests.record.loops import everything, record, run, update


def shown(values):
    return [float(f"{v:.5g}") if np.isfinite(v) else None for v in np.asarray(values, float)]


@pytest.fixture(scope="module", params=["recorded", "observed"])
def growing(request, tmp_path_factory):
    """A run that is looked at after 20 and after 50 updates, and when it is complete."""
    path = tmp_path_factory.mktemp("watched") / "run.zarr"
    options = {"observe": "0:", "steps": "0::10"} if request.param == "observed" else {}
    model, optimizer = everything()
    feed, seen, done = Feed(path), [], 0
    with record(path, model, optimizer, block=4, flush_seconds=0, **options) as recorder:
        for stop in (20, 50):
            for step in range(done, stop):
                recorder.step(loss=update(model, optimizer, step), perplexity=2.0**step)
            done = stop
            recorder.evaluate(loss=0.5, accuracy=stop / 100)
            recorder.flush()
            feed.poll()
            seen.append((feed.epoch, len(feed.tracks["training"].steps), describe(feed)))
    feed.poll()
    return path, feed, seen


def test_every_number_is_the_runs_own(growing):
    path, feed, _ = growing
    opened = ckptlab.open_run(path)
    dataset, observed = opened.dataset, opened.stored.observed is not None
    telemetry = opened.analyze("telemetry")
    training = feed.tracks["training"]
    prefix = "observed_" if observed else ""
    assert training.steps == opened.stored.small("observed_step" if observed else "step").tolist()
    assert training.values["loss"] == shown(dataset[f"{prefix}loss"])
    assert feed.tracks["eval"].values["accuracy"] == [0.2, 0.5]
    recording = feed.tracks["recording"]
    assert recording.values["perplexity"] == shown(dataset["perplexity"])
    assert recording.values["stalled"] == shown(np.nancumsum(dataset["stall_time"]))
    norms = np.sqrt((dataset[f"{prefix}gradient_norm"].astype(float) ** 2).sum("tensor")).values
    np.testing.assert_allclose(feed.tracks["gradient"].values["norm"][1:], norms[1:], rtol=1e-4)
    weights = feed.tracks["weights"]
    assert bool(weights.steps) == observed
    if observed:
        expected = {"distance": "weight_distance_init", "flips": "sign_flips_init"}
        for name, metric in expected.items():
            assert weights.values[name] == pytest.approx(
                telemetry[metric].values.tolist(), rel=1e-4, abs=1e-9
            )
    titles = [panel.title for panel in feed.panels()]
    assert ("Distance of the weights" in titles) == observed
    assert titles[-1] == "perplexity"


def test_what_was_read_is_not_read_again(growing):
    path, feed, seen = growing
    assert [count for _, count, _ in seen] == sorted({count for _, count, _ in seen})
    assert seen[0][0] == seen[1][0] == feed.epoch
    assert seen[0][2].startswith("recording: step 20")
    assert describe(feed).startswith("complete: step 50")
    before = feed.bytes_read
    feed.poll()
    assert feed.bytes_read - before == (path / "zarr.json").stat().st_size


def test_nothing_but_small_arrays_is_read(growing, tmp_path):
    path, _, _ = growing
    bare = tmp_path / "bare.zarr"
    shutil.copytree(path, bare)
    for large in ("weights", "buffers", "digest", "optimizer_state"):
        shutil.rmtree(bare / large / "c", ignore_errors=True)
    feed = Feed(bare)
    feed.poll()
    assert feed.status["last_step"] == 50


def test_a_run_that_is_cut_or_replaced_begins_anew(tmp_path):
    path = tmp_path / "run.zarr"

    def write(steps):
        model, optimizer = everything()
        with record(path, model, optimizer, block=4, overwrite=True) as recorder:
            run(recorder, model, optimizer, steps)

    write(20)
    feed = Feed(path)
    feed.poll()
    epoch = feed.epoch
    write(8)
    feed.poll()
    assert feed.epoch > epoch
    assert feed.tracks["training"].steps == list(range(9))
    shutil.rmtree(path)
    with pytest.raises(StoreError, match="does not exist"):
        feed.poll()
    assert feed.tracks["training"].steps == list(range(9))


def test_an_object_store_is_asked_for_less_than_a_megabyte_a_minute(s3, tmp_path):
    path = f"{s3}/runs/watched.zarr"
    model, optimizer = everything()
    with record(path, model, optimizer, block=8, observe="0:") as recorder:
        run(recorder, model, optimizer, 24)
        recorder.flush()
        feed = Feed(path)
        wait = feed.poll()
        assert feed.bytes_read > 0
        assert wait >= feed.bytes_read / REMOTE_BYTES
        assert wait >= 10
    feed.poll()
    assert describe(feed).startswith("complete: step 24")
