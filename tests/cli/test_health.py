from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ckptlab.run import open_run


def test_a_healthy_run_and_a_folder_with_a_copy(small_run: Path, tmp_path: Path, call) -> None:
    run = open_run(small_run)
    code, out, err = call("health", small_run, "--strict")
    assert (code, err) == (0, "")
    assert out.startswith(f"{small_run}: nothing found wrong in {len(run.steps)} snapshots")
    assert run.health().to_dict()["ok"]
    for step, source in {0: 0, 10: 10, 20: 10, 30: 30, 40: 40}.items():
        torch.save(run.state_dict(source), tmp_path / f"step_{step}.pt")
    before = sorted(tmp_path.iterdir())
    code, out, err = call("health", tmp_path)
    assert (code, err) == (0, "")
    assert "1 found wrong in 5 snapshots, steps 0..40" in out
    assert "identical: steps 10, 20, the whole snapshot: the same values" in out
    code, out, _ = call("health", tmp_path, "--strict", "--json")
    assert (code, sorted(tmp_path.iterdir())) == (1, before)
    (finding,) = json.loads(out)["findings"]
    assert (finding["rule"], finding["steps"], finding["tensors"]) == ("identical", [10, 20], [])


def test_types_that_change_along_a_folder(small_run: Path, tmp_path: Path, call) -> None:
    run = open_run(small_run)
    for step in (0, 10, 20, 30):
        state = run.state_dict(step)
        if step == 20:
            state = {name: t.half() if t.is_floating_point() else t for name, t in state.items()}
        torch.save(state, tmp_path / f"step_{step}.pt")
    code, out, _ = call("health", tmp_path, "--json")
    findings = [f for f in json.loads(out)["findings"] if f["rule"] == "form"]
    assert (code, [f["steps"] for f in findings]) == (0, [[20]])
    assert "stored as float16, not float32" in findings[0]["evidence"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("none",), "none"),
        (("RUN", "--memory", "1MiB"), "memory of 1 MiB is too little to look at"),
        (("RUN", "--pattern", "*.pt"), "is a run, and options such as --pattern choose"),
        (("RUN", "--memory", "much"), "'much' is not an amount"),
    ],
)
def test_bad_input_is_told_in_one_line(small_run: Path, call, arguments, said) -> None:
    given = [small_run if word == "RUN" else word for word in arguments]
    code, out, err = call("health", *given)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
