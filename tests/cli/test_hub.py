"""``import hf://…``, ``push`` and ``pull`` against a Hub on loopback."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save

from ckptlab.run import open_run
from tests.record.hub.server import serving


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serving() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        files = {
            f"step{step}": {"model.safetensors": save({"w": torch.full((3, 2), float(step))})}
            for step in (0, 7)
        }
        served.repositories["models", "lab/series"] = {"main": files["step7"], **files}
        yield served


def test_a_dry_run_then_the_import_then_what_is_left(hub, tmp_path, call) -> None:
    run = tmp_path / "run.zarr"
    asked = ("import", "hf://lab/series", "--revisions", "step*", "-o", run)
    size = 2 * len(hub.repositories["models", "lab/series"]["step0"]["model.safetensors"])
    code, out, err = call(*asked, "--dry-run")
    assert (code, err) == (0, "")
    assert out == (
        "  w  float32 [3, 2]\n2 checkpoints, steps 0..7, 6 parameters: "
        f"{size} B to read, at most 48 B stored\n"
    )
    assert not run.exists()
    code, out, err = call(*asked)
    assert (code, err) == (0, "")
    assert out.endswith("2 checkpoints, 2 new, steps 0..7, 6 parameters\n")
    assert torch.equal(open_run(run).state_dict(7)["w"], torch.full((3, 2), 7.0))
    code, out, err = call(*asked, "--dry-run")
    assert (code, out, err) == (0, f"2 of 2 are in {run} already\nnothing to import\n", "")
    code, out, _ = call(*asked, "--dry-run", "--overwrite", "--json")
    assert (code, json.loads(out)["steps"]) == (0, [0, 7])


def test_push_and_pull(hub, small_run, tmp_path, call) -> None:
    code, out, err = call("push", small_run, "hf://datasets/lab/runs/small.zarr", "--private")
    assert (code, out, err) == (0, f"{hub.endpoint}/datasets/lab/runs\n", "")
    back = tmp_path / "back.zarr"
    code, out, err = call("pull", "hf://datasets/lab/runs/small.zarr", "-o", back)
    assert (code, out, err) == (0, f"{back}\n", "")
    assert open_run(back).steps.tolist() == open_run(small_run).steps.tolist()
    for arguments, said in [
        (("pull", "hf://datasets/lab/runs/small.zarr", "-o", back), "--overwrite to replace it"),
        (("pull", "hf://datasets/lab/runs", "-o", tmp_path / "x"), "it has small.zarr; give hf://"),
        (("push", tmp_path / "none", "hf://lab/runs"), "none"),
        (("import", "hf://lab/series", "-o", tmp_path / "x"), "has no step in its name"),
        (("import", "hf://lab/series", "--revisions", "it*", "--dry-run"), "matches 'it*'; it has"),
        (("import", "hf://lab/none", "-o", tmp_path / "x"), "hf://lab/none is not on http"),
    ]:
        code, out, err = call(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert said in err
    code, out, _ = call("pull", "hf://datasets/lab/runs/small.zarr", "-o", back, "--overwrite")
    assert (code, out) == (0, f"{back}\n")
    hub.gated.add("lab/series")
    code, _, err = call("import", "hf://lab/series@step7", "-o", tmp_path / "x")
    assert (code, err.count("\n")) == (2, 1)
    assert "is gated: accept its terms" in err


def test_without_a_network_one_line_says_so(tmp_path, call, monkeypatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for last in (("--dry-run",), ("-o", tmp_path / "x")):
        code, out, err = call("import", "hf://lab/series", "--revisions", "step*", *last)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "cannot be reached on http://127.0.0.1:9" in err
