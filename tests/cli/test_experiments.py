import json
import time

import numpy as np
import pytest
import torch
import xarray as xr

import ckptlab as ckptlab_package
from ckptlab.cli.experiment_options import JobProgress
from ckptlab.experiments.jobs.plan import ExperimentPlan
from ckptlab.experiments.jobs.scheduler import Outcome
from ckptlab.store.read.reader import open_store
from tests.cli.commands import ckptlab
from tests.experiments.small import SETTINGS

TRAINING = [part for setting in SETTINGS for part in ("-S", setting)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiments") / "p.zarr"
    done = ckptlab("record", "-o", path, *TRAINING)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def there(cluster):
    """Options that have the jobs done by workers that run already."""
    return ["--scheduler", cluster.scheduler_address]


def test_a_series_its_masks_and_what_they_are_good_for(run, tmp_path, there):
    imp = ["imp", run, "--rewind", "8", "--levels", "2"]
    first = ckptlab(*imp, *there, "-o", tmp_path / "imp")
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip().splitlines()[-1] == str(tmp_path / "imp" / "results.zarr")
    # Of the prunable weights, exactly what two levels leave.
    layout = open_store(run).layout
    total = sum(tensor.size for tensor in layout.tensors if tensor.prunable)
    left = total - round(0.2 * total)
    assert f"{(left - round(0.2 * left)) / total:.4f}" in first.stdout
    mask = f"{tmp_path}/imp/results.zarr@2"
    kinds = ["--kind", "none", "--kind", "shuffle:layer,keep-signs"]
    masked = ["--at", "8", "--mask", mask, *there]
    options = [*masked, *kinds, "--replicates", "2", "--json"]
    second = ckptlab("perturb", run, *options, "-o", tmp_path / "perturb")
    assert second.returncode == 0, second.stderr
    results = json.loads(second.stdout)
    assert results["done"] == results["jobs"] == 3
    assert results["data_vars"]["accuracy"]["dims"] == ["perturbation", "rewind", "replicate"]
    kept = xr.open_zarr(tmp_path / "imp" / "results.zarr").mask.sel(level=2).values
    for path in (tmp_path / "perturb" / "jobs").glob("*.zarr"):
        weights = xr.open_zarr(path).weights.values
        assert not weights[~kept].any()
    third = ckptlab("connect", run, *masked, "--alphas", "3", "-o", tmp_path / "connect")
    assert third.returncode == 0, third.stderr
    line = xr.open_zarr(tmp_path / "connect" / "results.zarr").load()
    assert line.error.sizes == {"rewind": 1, "replicate": 1, "alpha": 3}
    errors = line.error.values.ravel()
    assert line.instability.item() == pytest.approx(errors.max() - (errors[0] + errors[2]) / 2)


def test_the_same_again_is_a_no_op_and_names_the_same_folder(run, tmp_path, monkeypatch, there):
    monkeypatch.chdir(tmp_path)
    arguments = ["imp", run, "--rewind", "8", "--levels", "1", *there]
    before = ckptlab(*arguments, "--dry-run", "--json")
    facts = json.loads(before.stdout)
    assert (facts["jobs"], facts["done"], facts["steps"]) == (1, 0, 40)
    assert not (tmp_path / facts["path"]).exists()
    first, again = ckptlab(*arguments), ckptlab(*arguments)
    assert first.stdout == again.stdout
    assert first.stdout.strip().splitlines()[-1] == facts["path"] + "/results.zarr"
    after = json.loads(ckptlab(*arguments, "--dry-run", "--json").stdout)
    assert (after["done"], after["steps"]) == (1, 0)


def test_from_a_pre_trained_state(run, tmp_path, there):
    pre = tmp_path / "pre.zarr"
    settings = ["-S", "task.name=rotation", "-S", "train.steps=6"]
    done = ckptlab("record", "--from", f"{run}@init", "--fresh-optimizer", *settings, "-o", pre)
    assert done.returncode == 0, done.stderr
    arguments = ["imp", run, "--from", f"{pre}@6", "--levels", "1", *there]
    full = ckptlab(*arguments, "-o", tmp_path / "full")
    assert full.returncode == 0, full.stderr
    rest = ckptlab(*arguments, "--budget", "remaining", "-o", tmp_path / "rest")
    assert rest.returncode == 0, rest.stderr
    for name, first in (("full", 0), ("rest", 6)):
        paths = list((tmp_path / name / "jobs").glob("*.zarr"))
        assert len(paths) == 2
        for path in paths:
            child = xr.open_zarr(path)
            assert child.step.values[0] == first
            assert child.attrs["branch"]["new_tensors"] == ["fc.weight", "fc.bias"]


def test_failures_are_reported_and_the_rest_goes_on(tmp_path, there):
    study = tmp_path / "study.toml"
    study.write_text(
        'kind = "critical"\ndeficit = {name = "blur", factor = 2}\ndurations = [0, 4]\n'
        '[config.model]\nname = "mlp"\n[config.data]\nname = "digits"\n[config.train]\nsteps = 8\n'
    )
    fine = ckptlab("study", study, *there, "-o", tmp_path / "fine")
    assert fine.returncode == 0, fine.stderr
    # A file where a folder should be: nothing is downloaded into it, even where there is a network.
    held = f'name = "mnist"\nroot = "{study}"'
    study.write_text(study.read_text().replace('name = "digits"', held))
    done = ckptlab("study", study, *there, "-o", tmp_path / "failing", "--json")
    assert done.returncode == 1
    assert len(json.loads(done.stdout)["failed"]) == 2
    assert all(
        line.startswith(("Error: job ", "2 jobs failed")) for line in done.stderr.splitlines()
    )
    assert "--retry-failed" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["imp", "RUN", "--rewind", "49"], "--rewind 49 lies outside the run; accepted: 0 to 48"),
        (["perturb", "RUN", "--at", "5000", "--kind", "none"], "--at 5000 lies outside the run"),
        (["perturb", "RUN", "--at", "8", "--kind", "nomod:f"], "unknown perturbation 'nomod'"),
        (["imp", "RUN"], "--rewind STEP is needed"),
        (["imp", "RUN", "--rewind", "8", "--fraction", "1.5"], "fraction 1.5 is not accepted"),
        (["imp", "RUN", "--rewind", "8", "--scope", "tensor"], "scope"),
        (["imp", "RUN", "--rewind", "8", "--pruning", "imq"], "Did you mean 'imp'"),
        (["imp", "RUN", "--rewind", "8", "--vary", "init"], "Accepted: augment, order, seed"),
        (["imp", "RUN", "--rewind", "8", "--keep", "fc"], "tensor to keep 'fc'"),
        (["imp", "RUN", "--rewind", "8", "--pruning", "nowhere.at:all"], "cannot be imported"),
        (["study", "STUDY", "--scale", "paper"], "has no scales; leave --scale out"),
        (["imp", "RUN", "--from", "RUN@8", "--budget", "some"], "budget"),
        (["imp", "RUN", "--from", "RUN@48", "--budget", "remaining"], "leaves nothing"),
        (["imp", "RUN", "--from", "RUN@8", "--rewind", "4"], "drop --rewind"),
        (["perturb", "RUN", "--at", "8", "--kind", "shuffle"], "is not of the form shuffle:"),
        (["perturb", "RUN", "--at", "8", "--kind", "noisy:1"], "Did you mean 'noise'"),
        (["perturb", "RUN", "--at", "8", "--kind", "none", "--vary", "init"], "order"),
        (["perturb", "RUN", "--at", "8", "--kind", "none", "--mask", "OTHER"], "of another model"),
        (["connect", "RUN", "--at", "8", "--statistics", "mean"], "recompute"),
        (["connect", "RUN", "--at", "8", "--scheduler", "threads"], "accepted: tcp://HOST:PORT"),
        (
            ["connect", "RUN", "--at", "8", "--scheduler", "tcp://127.0.0.1:1"],
            "no scheduler answers",
        ),
        (["imp", "none.zarr", "--rewind", "8"], "does not exist"),
        (["study", "none.toml"], "cannot be read"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, call, arguments, said):
    np.save(tmp_path / "other.npy", np.ones(3, bool))
    (tmp_path / "study.toml").write_text('kind = "record"\n')
    words = {"RUN": run, "OTHER": tmp_path / "other.npy", "STUDY": tmp_path / "study.toml"}
    words |= {f"RUN@{step}": f"{run}@{step}" for step in (8, 48)}
    code, shown, error = call(*(words.get(a, a) for a in arguments), "-o", tmp_path / "folder")
    assert code == 2, error
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert shown == ""


def test_runs_that_can_not_be_branched_from(tmp_path, call):
    model = torch.nn.Linear(3, 2)
    with ckptlab_package.Recorder(tmp_path / "own.zarr", model, steps="0:") as recorder:
        recorder.step()
    code, _, error = call("imp", tmp_path / "own.zarr", "--rewind", "0")
    assert code == 2
    assert "a training loop outside ckptlab" in error


def test_replicates_say_what_they_share(run, call, monkeypatch):
    planned = []
    monkeypatch.setattr("ckptlab.cli.experiments.finish", lambda plan, *_: planned.append(plan))
    two = ["--replicates", "2"]
    for arguments in (
        ["imp", run, "--rewind", "8", "--levels", "2", *two],
        ["imp", run, "--rewind", "8", "--levels", "2", *two, "--vary", "order"],
        ["perturb", run, "--at", "8", "--kind", "noise:1", *two],
        ["perturb", run, "--at", "8", "--kind", "noise:1", *two, "--vary", "seed"],
        ["connect", run, "--at", "8", *two],
    ):
        code, _, error = call(*arguments)
        assert code == 0, error
    told = [plan.attributes["replicates"] for plan in planned]
    assert told[0] == told[3] == "independent, from train.seed on"
    assert told[1] == "share the dense run and the masks of level 1; they vary order"
    assert told[2] == "share the dense run; they vary what is drawn"
    assert told[4] == "share the dense run; they vary order and augmentation of the children"
    runs = [{(c.at["replicate"], c.run) for c in plan.cells} for plan in planned]
    # Level 0 of both replicates is RUN where they share it: the pairs differ, the runs do not.
    shared = [len(pairs) - len({run for _, run in pairs}) for pairs in runs]
    assert shared == [0, 1, 0, 0, 0]


def test_a_line_of_progress_comes_also_while_no_job_ends(capfd, monkeypatch):
    monkeypatch.setattr("ckptlab.cli.experiment_options.TICK_SECONDS", 0.02)
    monkeypatch.setattr("ckptlab.cli.progress.LINE_SECONDS", 0.05)
    plan = ExperimentPlan(title="", kind="imp")
    plan.jobs.update(dict.fromkeys("abcd"))
    with JobProgress(plan) as progress:
        progress(Outcome(done={"a"}, failed={"b": "no"}))
        said = ""
        while said.count("\n") < 2:  # the tests' limit of time bounds it
            time.sleep(0.05)
            said += capfd.readouterr().err
    lines = (said + capfd.readouterr().err).splitlines()
    assert all(line.startswith("jobs: 1 of 4  1 failed, 0 blocked") for line in lines)
