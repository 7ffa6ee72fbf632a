"""Options of ``ckptlab import`` that say which checkpoints, which tensors, and when."""

from __future__ import annotations

import json

import pytest
import torch

from ckptlab.run import open_run

MINE = """
import torch
def read(path):
    return {"w": torch.tensor([float(path.read_text()), 1.0])}
"""


def weights(step: int) -> dict[str, torch.Tensor]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3) + step, "a.bias": torch.ones(2)}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "series").mkdir()
    return tmp_path / "series"


def imported(path, name: str = "a.weight") -> dict[int, float]:
    """The first value of a tensor, by step."""
    run = open_run(path)
    return {step: run.state_dict(step)[name].flatten()[0].item() for step in run.steps.tolist()}


def test_a_dry_run_tells_and_writes_nothing(folder, tmp_path, call) -> None:
    for step in (5, 10):
        torch.save({"model": weights(step), "optim": 1}, folder / f"step_{step}.pt")
    code, out, err = call("import", folder, "--dry-run")
    assert (code, err) == (0, "")
    assert out.splitlines()[:3] == [
        "  a.weight  float32 [2, 3]",
        "  a.bias  float32 [2]",
        "took model (in 2 checkpoints)",
    ]
    assert "2 checkpoints, steps 5..10, 8 parameters: 64 B to read, about" in out
    code, out, _ = call("import", folder, "--dry-run", "--json", "-o", tmp_path / "run")
    said = json.loads(out)
    assert (code, said["steps"], said["bytes_read"]) == (0, [5, 10], 64)
    assert list(tmp_path.iterdir()) == [folder]


def test_follow_adds_what_is_new_and_else_does_nothing(folder, tmp_path, call) -> None:
    run = tmp_path / "run"
    for step in (5, 10):
        torch.save(weights(step), folder / f"step_{step}.pt")
    for new in (2, 0):
        code, out, err = call("import", folder, "-o", run, "--follow")
        assert (code, err) == (0, "")
        assert f"2 checkpoints, {new} new, steps 5..10, 8 parameters" in out
    torch.save(weights(15), folder / "step_15.pt")
    (folder / "step_20.pt").write_bytes(b"PK\x03\x04")
    code, out, err = call("import", folder, "-o", run, "--follow")
    assert (code, err) == (0, "")
    assert "left out step_20.pt: half-written" in out
    assert "3 checkpoints, 1 new, steps 5..15" in out
    code, out, err = call("import", folder, "-o", run)
    assert (code, err.count("\n")) == (2, 1)
    assert "exists" in err
    assert imported(run) == {5: 5, 10: 10, 15: 15}


def test_pattern_and_step_from_choose_one_of_two_series(folder, tmp_path, call) -> None:
    for stage in (1, 2):
        for step in (5, 10):
            torch.save(weights(100 * stage + step), folder / f"stage{stage}-upd{step}.pt")
    code, out, err = call("import", folder, "-o", tmp_path / "run")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "holds 2 series: 'stage1-upd', 'stage2-upd'; take one with --pattern" in err
    code, out, err = call(
        *("import", folder, "-o", tmp_path / "run", "--pattern", "stage2-*"),
        *("--step-from", r"upd(\d+)"),
    )
    assert (code, err) == (0, "")
    assert imported(tmp_path / "run") == {5: 205, 10: 210}
    code, out, err = call("import", folder, "-o", tmp_path / "no", "--pattern", "stage3-*")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--pattern 'stage3-*' matches nothing; " in err
    code, out, err = call("import", folder, "-o", tmp_path / "no", "--step-from", "(")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--step-from" in err
    assert not (tmp_path / "no").exists()


def test_key_and_weights_choose_the_dict(folder, tmp_path, call) -> None:
    for step in (5, 10):
        content = {"model": weights(step), "model_ema": weights(step + 50), "G": weights(step + 70)}
        torch.save(content, folder / f"step_{step}.pt")
    for given, first in [((), 5), (("--weights", "ema"), 55), (("--key", "G"), 75)]:
        run = tmp_path / f"run{first}"
        code, _, err = call("import", folder, "-o", run, *given)
        assert (code, err) == (0, "")
        assert imported(run) == {5: first, 10: first + 5}
    code, out, err = call("import", folder, "-o", tmp_path / "no", "--key", "D")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--key D: " in err


def test_epochs_become_steps(folder, tmp_path, call) -> None:
    for epoch, within in ((0, 0), (0, 50), (1, 0)):
        torch.save(weights(100 * epoch + within), folder / f"model_ep{epoch}_it{within}.pt")
    code, out, err = call("import", folder, "-o", tmp_path / "run")
    assert (code, out) == (2, "")
    assert "--steps-per-epoch N" in err
    given = ("import", folder, "-o", tmp_path / "run", "--steps-per-epoch")
    assert call(*given, 0)[0] == 2
    assert call(*given, 100)[0] == 0
    assert imported(tmp_path / "run") == {0: 0, 50: 50, 100: 100}


def test_a_reader_of_ones_own_and_an_amount_of_memory(folder, tmp_path, call, monkeypatch) -> None:
    (tmp_path / "mine_reader.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    for step in (5, 10):
        (folder / f"step_{step}.txt").write_text(str(step))
    given = ("import", folder, "-o", tmp_path / "run", "--reader")
    code, out, err = call(*given, "mine_reader:read", "--memory", "much")
    assert (code, out, err.count("\n")) == (2, "", 1)
    code, out, err = call(*given, "mine_reader:read", "--memory", "1B")
    assert (code, out) == (2, "")
    assert "is too little" in err
    code, out, err = call(*given, "mine_reader:read", "--memory", "1KB", "--codec", "raw")
    assert (code, err) == (0, "")
    assert imported(tmp_path / "run", "w") == {5: 5, 10: 10}


def test_tensors_that_change_shape_are_named(folder, tmp_path, call) -> None:
    torch.save(weights(5), folder / "step_5.pt")
    torch.save({**weights(10), "a.bias": torch.ones(3)}, folder / "step_10.pt")
    code, out, err = call("import", folder, "-o", tmp_path / "run")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "step_5.pt and step_10.pt are not of one model: tensor 'a.bias' is float32 of sh" in err
    assert not (tmp_path / "run").exists()
