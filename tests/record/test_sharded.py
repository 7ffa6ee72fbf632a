"""Sharded networks, recorded by real processes: the run is the whole network's, bit by bit."""

import os
import re
import time

import numpy as np
import pytest
import torch
import xarray as xr
import xxhash

from ckptlab.record.pipeline import buffers
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format import schema, zarr_metadata
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from ckptlab.store.write.target import is_free
from tests.forks import fork_server
from tests.record import sharded
from tests.record.loops import assert_same_run

processes = fork_server()
KINDS = ("fsdp", "hsdp", "tp", "2d")


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zarr_metadata, "CHUNK_PARAMETERS", 128)
        patch.setattr(zarr_metadata, "SHARD_PARAMETERS", 384)
        patch.setattr(schema, "OPTIMIZER_ROW_CHUNK", 8192)
        patch.setattr(buffers, "USUAL_BLOCK", 4)
        yield


def start(ranks, target, folder, *arguments):
    for left in folder.glob("meet-*"):
        left.unlink()
    queue = processes.Queue()
    workers = [
        processes.Process(
            target=sharded.call, args=(target, r, ranks, str(folder), *arguments, queue)
        )
        for r in range(ranks)
    ]
    for worker in workers:
        worker.start()
    return workers, queue


def on_ranks(ranks, target, folder, *arguments, dead=0):
    """Run a function on so many ranks, of which some die; return what the others found, by rank."""
    workers, queue = start(ranks, target, folder, *arguments)
    found = dict(queue.get(timeout=240) for _ in range(ranks - dead))
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()
    for told in found.values():
        assert not isinstance(told, str) or not told.startswith("Traceback"), told
    return found


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    """Sums of the reference in this process are in the order of those of the ranks."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def recorded(folder):
    """What torch gathered while each kind was recorded on two or four ranks, by the first."""
    seen = {}
    for ranks, kinds in ((2, ("fsdp", "tp")), (4, ("hsdp", "2d"))):
        found = on_ranks(ranks, sharded.record_kinds, folder, kinds)
        for rank in range(1, ranks):
            for kind in kinds:
                assert np.array_equal(found[rank][kind], found[0][kind]["final"])
        seen |= found[0]
    return seen


@pytest.fixture(scope="module")
def unsharded(folder, recorded):
    del recorded
    path = folder / "whole.zarr"
    sharded.train(path, "whole", 6)
    return open_store(path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_is_what_torch_gathers(folder, recorded, kind):
    path, seen = folder / f"{kind}.zarr", recorded[kind]
    assert verify(path, deep=True).ok
    stored = open_store(path)
    assert stored.steps.tolist() == list(range(7))
    assert (stored.state, stored.weights.grid.shard_grid) == ("complete", (6, 2))
    for step in range(7):
        weights = stored.snapshot(step)
        assert np.array_equal(weights, seen["weights"][step])
        expected = [
            xxhash.xxh3_64_intdigest(weights[a : a + 384].tobytes()) for a in range(0, 2235, 384)
        ]
        assert stored.small("digest")[:, step].tolist() == expected
    for step in range(1, 7):
        gradients = stored.snapshot(step, "gradients")
        assert np.array_equal(gradients, seen["gradients"][step], equal_nan=True)
        for tensor, norm, mean in zip(
            stored.layout.tensors,
            stored.small("gradient_norm")[:, step],
            stored.small("gradient_mean_abs")[:, step],
            strict=True,
        ):
            exact = gradients[tensor.stretch].astype(np.float64)
            assert norm == pytest.approx(np.sqrt((exact**2).sum()), rel=1e-5, nan_ok=True)
            assert mean == pytest.approx(np.abs(exact).mean(), rel=1e-5, nan_ok=True)
    anchor = stored.anchor(6)
    assert np.array_equal(anchor.states["exp_avg"], seen["exp_avg"], equal_nan=True)
    with xr.open_zarr(path) as dataset:
        assert np.array_equal(dataset["weights"].values[:, 3], seen["weights"][3])


def test_a_bucket_holds_what_the_ranks_trained(folder, s3):
    url = f"{s3}/sharded.zarr"
    variables = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    found = on_ranks(2, sharded.record_to_bucket, folder, url, variables)
    assert verify(url, deep=True).ok
    stored = open_store(url)
    assert (stored.state, stored.weights.grid.shard_grid) == ("complete", (6, 2))
    for step in range(7):
        for seen in found.values():
            assert np.array_equal(stored.snapshot(step), seen["weights"][step])


@pytest.mark.parametrize("kind", KINDS)
def test_observed_sums_are_those_of_the_weights(folder, recorded, kind):
    stored, weights = open_store(folder / f"{kind}.zarr"), recorded[kind]["weights"]
    assert stored.observed.tolist() == list(range(7))
    sums, counts = stored.small("observed_sums"), stored.small("observed_counts")
    extremes = stored.small("observed_extremes")
    for t, tensor in enumerate(stored.layout.tensors):
        x, y, z = (weights[s][tensor.stretch].astype(np.float64) for s in (5, 4, 0))
        expected = [
            np.abs(x).sum(), (x * x).sum(), ((x - y) ** 2).sum(), ((x - z) ** 2).sum(),
            x.sum(), (x * y).sum(), (x * z).sum(),
        ]  # fmt: skip
        assert sums[:, t, 5] == pytest.approx(expected, rel=1e-9, abs=1e-12)
        flips = [(np.sign(x) * np.sign(o) < 0).sum() for o in (y, z)]
        assert counts[:, t, 5].tolist() == [(x != 0).sum(), *flips, 0]
        assert extremes[:, t, 5].tolist() == [x.min(), x.max()]


@pytest.mark.parametrize("kind", ["fsdp", "hsdp"])
def test_the_run_is_that_of_the_unsharded_network(folder, unsharded, kind):
    path = folder / f"{kind}.zarr"
    stored = open_store(path)
    assert stored.metadata == unsharded.metadata
    for name in ("loss", "lr", "step", "digest", "eval_step", "eval_loss", "skipped", "anchor"):
        assert np.array_equal(stored.small(name), unsharded.small(name), equal_nan=True), name
    for name in ("weights", "gradients", "buffers", "buffers_int64"):
        for step in range(7):
            a, b = stored.snapshot(step, name), unsharded.snapshot(step, name)
            assert np.array_equal(a, b, equal_nan=True)
    assert stored.attributes["tensors"] == unsharded.attributes["tensors"]
    ours, theirs = stored.anchor(6), unsharded.anchor(6)
    assert ours.row == theirs.row
    for key, values in theirs.states.items():
        assert np.array_equal(ours.states[key], values, equal_nan=True)


def test_a_run_goes_on_with_other_numbers_of_ranks(folder, recorded):
    """Four ranks, two, one process with the whole network, two of tensor parallelism's layout."""
    del recorded
    began = []
    for ranks, kind, stop in ((4, "hsdp", 3), (2, "fsdp", 6)):
        found = on_ranks(ranks, sharded.resume, folder, kind, stop)
        began.append({at for at, _ in found.values()})
        assert verify(folder / "resumed.zarr", deep=True).ok
    began.append({sharded.train(folder / "resumed.zarr", "whole", 9, resume="auto")["began"]})
    found = on_ranks(4, sharded.resume, folder, "fsdp", 11)
    began.append({at for at, _ in found.values()})
    assert began == [{0}, {3}, {6}, {9}]
    expected = sharded.train(folder / "straight.zarr", "whole", 11)
    for _, final in found.values():
        assert np.array_equal(final, expected["final"])
    assert verify(folder / "resumed.zarr", deep=True).ok
    a, b = (open_store(folder / f"{name}.zarr") for name in ("resumed", "straight"))
    for name in ("step", "digest", "loss", "observed_step", "observed_counts"):
        assert np.array_equal(a.small(name), b.small(name), equal_nan=True), name
    for name in ("gradient_norm", "observed_sums"):
        close = np.allclose(a.small(name), b.small(name), rtol=1e-6, equal_nan=True)
        assert close, name


def test_what_ranks_disagree_on_and_what_fails_on_one_is_told_on_all(folder, recorded):
    del recorded
    (folder / "taken").mkdir(exist_ok=True)
    (folder / "taken/notes.txt").write_text("mine")
    found = on_ranks(2, sharded.meet_trouble, folder)
    for rank, told in found.items():
        assert "\n" not in "".join(told[key] for key in told if key != "left")
        assert told["path"].startswith("ConfigError: path: rank 1 has ")
        assert told["steps"].startswith("ConfigError: steps: rank 1 has '0:11' and rank 0 '0:10'")
        assert told["each"].startswith("ConfigError: ranks='each' is not accepted of a sharded")
        assert "exists and is no run" in told["taken"]
        assert told["taken"].startswith("WriteError: rank 0: " if rank else "RunExistsError: ")
        assert "rank 1 has other values of 'odd.bias' than rank 0" in told["copies"]
        assert told["left"] == []
        assert told["full"].startswith("NoSpaceError: " if rank else "WriteError: rank 1: no space")
        assert told["signal"] == "SystemExit: 143"
        assert told["error"] == "ValueError: of all ranks"
    for name, steps in (("stopped", 4), ("failed", 4), ("full", None)):
        report = verify(folder / name, deep=True)
        assert report.ok
        stored = open_store(folder / name)
        assert stored.state in ("interrupted", "recording")
        if steps is not None:
            assert (len(stored.steps), stored.anchors[-1]) == (steps, steps - 1)
    assert (folder / "taken/notes.txt").read_text() == "mine"


LOST = re.compile(
    r"RecordingError: rank \d (lost another rank, which died or does not answer .*"
    r"|waits for rank \d to open its recorder and gave up .*)"
)


def check_survivors(found, path):
    for problem in found.values():
        assert LOST.fullmatch(problem), problem
    assert verify(path, deep=True).ok


@pytest.fixture(scope="module")
def reference(folder):
    path = folder / "reference.zarr"
    sharded.train(path, "whole", 39, observe=None)
    return path


@pytest.mark.parametrize(
    ("ranks", "dies", "how"), [(2, 1, "update"), (2, 1, "9"), (2, 0, "60"), (4, 2, "12")]
)
def test_a_killed_rank_ends_the_others_and_costs_the_last_block(
    folder, reference, ranks, dies, how, tmp_path
):
    path = tmp_path / "run.zarr"
    found = on_ranks(ranks, sharded.lose_a_rank, tmp_path, str(path), dies, how, dead=1)
    assert len(found) == ranks - 1
    check_survivors(found, path)
    sharded.train(path, "whole", 39, observe=None, resume="auto")
    assert_same_run(path, reference, rounded=True)


@pytest.mark.parametrize(
    ("how", "says"), [("raise", re.compile("ValueError: of one rank")), ("closed", LOST)]
)
def test_an_error_of_one_rank_ends_the_others(reference, tmp_path, how, says):
    """Its own stays as it is; what tells of a rank that died becomes one line."""
    path = tmp_path / "run.zarr"
    found = on_ranks(2, sharded.lose_a_rank, tmp_path, str(path), 1, how)
    assert says.fullmatch(found[1]), found[1]
    assert LOST.fullmatch(found[0]), found[0]
    assert verify(path, deep=True).ok
    assert_same_run(path, reference, upto=4, rounded=True)


@pytest.mark.slow
def test_ranks_killed_at_random_moments(reference, tmp_path):
    """From the moment on at which all have met until they are done, over and over."""
    rng, kills, runs, longest = np.random.default_rng(), 0, 0, 0.0
    while kills < 20:
        path, ranks = tmp_path / f"run-{runs}.zarr", int(rng.choice([2, 4]))
        workers, queue = start(ranks, sharded.lose_a_rank, tmp_path, str(path), -1, "time")
        here = [tmp_path / f"here-{rank}" for rank in range(ranks)]
        while not all(file.exists() for file in here):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 5))
        began, victim = time.monotonic(), workers[int(rng.integers(ranks))]
        killed = victim.is_alive()
        victim.kill()
        told = [queue.get(timeout=60) for _ in range(ranks - killed)]
        for worker in workers:
            worker.join(60)
            assert not worker.is_alive()
        for file in here:
            file.unlink()
        assert time.monotonic() - began < 60
        longest, kills = max(longest, time.monotonic() - began), kills + killed
        for _, problem in told:
            assert problem == "" or LOST.fullmatch(problem), problem
        if not is_free(open_storage(path)):
            assert verify(path, deep=True).ok
            if open_store(path).state == "complete":
                assert_same_run(path, reference, rounded=True)
                runs += 1
    sharded.train(path, "whole", 39, observe=None, resume="auto")
    assert_same_run(path, reference, rounded=True)
    print(f"{kills} kills, {runs} runs completed meanwhile, {longest:.1f} s at most")
