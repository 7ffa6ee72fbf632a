"""The example of docs/own-problems.md works as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import ckptlab
from ckptlab.train.problem_settings import PROBLEMS

PAGE = (Path(__file__).parents[2] / "docs" / "own-problems.md").read_text()


def test_the_curve_is_learnt_and_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("CKPTLAB_PLUGINS", "")
    for held in ("_entries", "_origins"):
        monkeypatch.setattr(PROBLEMS, held, dict(getattr(PROBLEMS, held)))
    (text,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / text.splitlines()[0].removeprefix("# ")
    path.write_text(text)
    module = ckptlab.load_plugin(path)
    settings = ["problem.name=curve", "problem.options.hidden=8", "train.steps=60"]
    run = ckptlab.record_training(tmp_path / "a.zarr", [*settings, "record.fsync=false"])
    found = run.analyze("evaluation")
    assert float(found["eval_loss"][-1]) < float(found["eval_loss"][0])
    problem = module.curve(hidden=8)
    model = problem.model()
    model.load_state_dict(run.state_dict(60))
    with torch.no_grad():
        near = problem.accuracy(model(problem.test.inputs), problem.test.targets).float().mean()
    assert float(found["eval_accuracy"][-1]) == pytest.approx(float(near))
    # Both forms of the name mean the same.
    assert run.analyze("hessian-spectrum", steps=60, samples=50, eigenvalues=1).sizes
