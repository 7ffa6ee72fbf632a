"""The examples of docs/own-metrics.md work as they stand, against NumPy and torch."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import ckptlab
from ckptlab.analyze.registry.metrics import METRICS

PAGE = (Path(__file__).parents[2] / "docs" / "own-metrics.md").read_text()


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """Load every example; take out afterwards what they register."""
    monkeypatch.setenv("CKPTLAB_PLUGINS", "")
    before = dict(METRICS._entries), dict(METRICS._origins)
    for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        path = tmp_path / text.splitlines()[0].removeprefix("# ")
        path.write_text(text)
        ckptlab.load_plugin(path)
    yield
    METRICS._entries, METRICS._origins = before


def test_each_kind_of_metric(plugins, tmp_path):
    path = tmp_path / "run.zarr"
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 3))
    with ckptlab.Recorder(path, model) as recorder, torch.no_grad():
        model[0].weight.mul_(2)
        recorder.step()
    run = ckptlab.open_run(path)
    matrices = [model[k].weight.detach().numpy() for k in (0, 1)]
    last = {"by": "tensor", "steps": "1"}
    found = run.analyze("largest-weight", **last)[:, 0]
    np.testing.assert_array_equal(found, [np.abs(w).max() for w in matrices])
    found = run.analyze("nuclear-norm", steps="1")[:, 0]
    norms = [np.linalg.norm(w, "nuc") for w in matrices]
    np.testing.assert_allclose(found, norms, rtol=1e-5)
    found = run.analyze("kurtosis-about-zero", **last)[:, 0]
    wide = [w.astype(float) for w in matrices]
    np.testing.assert_allclose(found, [(w**4).mean() / (w**2).mean() ** 2 for w in wide])
    inputs, targets = torch.randn(30, 4), torch.zeros(30, dtype=torch.int64)
    found = run.analyze("confidence", model=model, data=(inputs, targets), steps="1").item()
    assert found == pytest.approx(model(inputs).softmax(1).amax(1).mean().item(), rel=1e-5)
