import json

import numpy as np
import pytest
import xarray as xr

from tests.cli.commands import SMALL, ckptlab


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
