import json
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr

from ckptlab.cli import main
from ckptlab.train.models.build import build_model, build_network
from ckptlab.train.models.registry import ModelConfig
from tests.cli.commands import SMALL, ckptlab
from tests.train.tasks.samples import SHAPE
from tests.trained import points, record_own, tanh_network


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("branch")
    done = ckptlab("record", "-o", folder / "p.zarr", *SMALL, "-S", "train.steps=40")
    assert done.returncode == 0, done.stderr
    mask = np.ones(xr.open_zarr(folder / "p.zarr").sizes["param"], bool)
    mask[: 64 * 300 : 2] = False
    np.save(folder / "mask.npy", mask)
    return folder / "p.zarr"


def test_a_branch_goes_on_as_its_parent(parent, tmp_path):
    done = ckptlab("record", "--from", f"{parent}@25", "-o", tmp_path / "c.zarr")
    assert done.stdout.strip() == str(tmp_path / "c.zarr"), done.stderr
    whole, child = xr.open_zarr(parent), xr.open_zarr(tmp_path / "c.zarr")
    same = whole.weights.sel(step=slice(25, None)).values == child.weights.values
    assert same.all()
    facts = json.loads(ckptlab("info", tmp_path / "c.zarr", "--json").stdout)
    assert facts["branch"]["optimizer"] == "replayed"
    assert facts["first_step"] == 25
    assert facts["density"] is None


def test_a_sub_network_from_the_initialisation(parent, tmp_path):
    mask = parent.parent / "mask.npy"
    out = tmp_path / "sparse.zarr"
    done = ckptlab(
        "record",
        "--from",
        f"{parent}@30",
        "--at",
        "0",
        "--fresh-optimizer",
        "--mask",
        mask,
        "-o",
        out,
    )
    assert done.returncode == 0, done.stderr
    weights, kept = xr.open_zarr(out).weights.values, np.load(mask)
    assert not weights[~kept].any()
    assert (
        weights[kept, 0].tolist() == xr.open_zarr(parent).weights.sel(step=30).values[kept].tolist()
    )
    shown = ckptlab("info", out).stdout
    assert "0.809 of the prunable" in shown
    # The mask a run was made with selects weights of its parent, too.
    flips = ckptlab("analyze", "sign-flips", parent, "--mask", out, "--kinds", "all", "--json")
    assert json.loads(flips.stdout)["attrs"]["weights"] == int(kept.sum())
    assert ckptlab("verify", out, "--deep").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "p.zarr"], "write RUN@STEP"),
        (["--from", "p.zarr@41"], "accepted: 0 to 40"),
        (["--from", "none.zarr@4"], "does not exist"),
        (["--from", "p.zarr@4", "--preset", "mlp"], "drop --preset"),
        (["--from", "p.zarr@4", "--mask", "none.npy"], "none.npy"),
        (["--from", "p.zarr@4", "-S", "train.steps=3"], "accepted: at least 4"),
        (["--from", "p.zarr@4", "-S", "train.threads=2"], "train.threads=2"),
        (["--from", "p.zarr@4", "-S", "model.name=lenet"], "the network has"),
        (["--at", "4"], "--at goes with --from"),
        (["--fresh-optimizer"], "--fresh-optimizer goes with --from"),
        (["--resume", "p.zarr", "--from", "p.zarr@4"], "drop --from"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(parent, tmp_path, arguments, said):
    arguments = [a.replace("p.zarr", str(parent)) for a in arguments]
    output = [] if "--resume" in arguments else ["-o", tmp_path / "x.zarr"]
    done = ckptlab("record", *arguments, *output)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "x.zarr").exists()


def run(capfd, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    out = capfd.readouterr()
    return int(stopped.value.code or 0), out.out, out.err


def test_a_run_of_another_loop_does_not_say_which_network(tmp_path, capfd):
    x, y = points()
    path = record_own(tmp_path / "own.zarr", tanh_network(), x, y)
    for extra in ([], ["--fresh-optimizer"]):
        code, out, err = run(capfd, "record", "--from", f"{path}@4", "--dry-run", *extra)
        assert (code, out) == (2, "")
        assert "holds no settings" in err
        assert "-S model.name=" in err
    named = ["-S", "model.name=mlp", "--fresh-optimizer"]
    code, out, err = run(capfd, "record", "--from", f"{path}@4", "--dry-run", *named)
    assert (code, out) == (2, "")
    assert "the network has 'fc1.weight'" in err


def test_weights_of_another_loop_begin_a_training(tmp_path, capfd):
    model = build_model(
        partial(build_network, ModelConfig(name="mlp", width=4), SHAPE), init_seed=3
    )
    x, y = torch.rand(50, 1, 8, 8), torch.randint(0, 10, (50,))
    path = record_own(tmp_path / "own.zarr", model, x, y)
    named = ["-S", "model.name=mlp", "-S", "model.width=4", "-S", "train.steps=9"]
    out = tmp_path / "b.zarr"
    origin = ["--from", f"{path}@4", "--fresh-optimizer", "-o", out]
    assert run(capfd, "record", *origin, *named, "--dry-run")[0] == 0
    assert run(capfd, "record", *origin, *named)[0] == 0
    start = xr.open_zarr(path).weights.sel(step=4).values
    assert np.array_equal(xr.open_zarr(out).weights.sel(step=4).values, start)
