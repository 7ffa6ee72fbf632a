"""The examples of own problems: every experiment on a transformer, and grokking, shortened."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import ckptlab
from ckptlab.cli import _run
from ckptlab.plugins import VARIABLE, load_plugin
from ckptlab.train.order import Order

EXAMPLES = Path(__file__).parents[2] / "examples"
FILE = EXAMPLES / "transformer.py"
SIZES = {"width": 16, "layers": 1, "context": 8, "windows": 200}
STEPS, REWIND, LEVELS = 20, 6, 3
SETTINGS = ["problem.name=transformer", f"train.steps={STEPS}", "train.batch_size=40"]
SETTINGS += ["train.threads=1", "train.device=cpu", "record.fsync=false", "eval.steps=none"]
SETTINGS += [f"problem.options.{key}={value}" for key, value in SIZES.items()]


def command(*words: object) -> int:
    return _run([str(word) for word in words], debug=True)


@pytest.fixture(scope="module")
def example():
    before = os.environ.get(VARIABLE)
    module = load_plugin(FILE)
    yield module
    os.environ.update({VARIABLE: before} if before is not None else {})
    if before is None:
        os.environ.pop(VARIABLE, None)


@pytest.fixture(scope="module")
def dense(example, tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("transformer") / "dense.zarr"
    assert command("record", "-o", path, *(word for s in SETTINGS for word in ("-S", s))) == 0
    return path


@pytest.fixture(scope="module")
def pruned(dense: Path, cluster: Any) -> Path:
    """Three levels, by workers of dask."""
    out = dense.with_name("imp")
    words = ["--rewind", REWIND, "--levels", LEVELS, "-S", "record.steps=0:"]
    words += ["--scheduler", cluster.scheduler_address]
    assert command("imp", dense, *words, "-o", out) == 0
    return out


class ByHand:
    """Iterative magnitude pruning with rewinding in plain PyTorch."""

    def __init__(self, example, initial: dict[str, torch.Tensor]) -> None:
        self.problem = example.transformer(**SIZES)
        self.model = self.problem.model()
        self.model.load_state_dict(initial)
        self.names = [
            name
            for name, parameter in self.model.named_parameters()
            if parameter.ndim == 2 and "embed" not in name and "position" not in name
        ]
        self.masks = {n: torch.ones_like(self.model.get_parameter(n)) for n in self.names}

    def train(self, first: int) -> list[np.ndarray]:
        """Train from a step to the end; return the parameter vector at each step."""
        order = Order(samples=len(self.problem.train), batch_size=40, seed=0)
        optimizer = self.problem.optimizer(list(self.model.parameters()))
        self.apply()
        vectors = [self.vector()]
        for k in range(first, STEPS):
            inputs, targets = self.problem.train.take(order.batch_at(k))
            loss = self.problem.loss(self.model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            for name, mask in self.masks.items():
                self.model.get_parameter(name).grad *= mask
            optimizer.step()
            vectors.append(self.vector())
        return vectors

    def apply(self) -> None:
        with torch.no_grad():
            for name, mask in self.masks.items():
                self.model.get_parameter(name).masked_fill_(mask == 0, 0)

    def prune(self) -> None:
        """Drop the fifth of the surviving weights, over all layers, of lowest magnitude."""
        alive = [
            (abs(float(value)), at, i, name)
            for at, name in enumerate(self.names)
            for i, value in enumerate(self.model.get_parameter(name).flatten().tolist())
            if self.masks[name].flatten()[i]
        ]
        for _, _, i, name in sorted(alive)[: round(0.2 * len(alive))]:
            self.masks[name].view(-1)[i] = 0

    def vector(self) -> np.ndarray:
        return torch.nn.utils.parameters_to_vector(self.model.parameters()).detach().numpy().copy()

    def mask(self) -> np.ndarray:
        parts = [
            self.masks.get(name, torch.ones_like(p)).flatten()
            for name, p in self.model.named_parameters()
        ]
        return torch.cat(parts).numpy() > 0


def test_pruning_equals_a_loop_by_hand(example, dense: Path, pruned: Path) -> None:
    run = ckptlab.open_run(dense)
    hand = ByHand(example, run.state_dict(0))
    vectors = hand.train(0)
    for step, vector in enumerate(vectors):
        np.testing.assert_array_equal(run.snapshot(step), vector)
    results = xr.open_zarr(pruned / "results.zarr")
    for level in range(1, LEVELS + 1):
        hand.prune()
        hand.model.load_state_dict(run.state_dict(REWIND))
        vectors = hand.train(REWIND)
        job = str(results["job"].sel(level=level).squeeze().values)
        found = ckptlab.open_run(pruned / "jobs" / f"{job[4:]}.zarr")
        np.testing.assert_array_equal(results["mask"].sel(level=level), hand.mask())
        np.testing.assert_array_equal(found.snapshot(REWIND), vectors[0])
        np.testing.assert_array_equal(found.snapshot(STEPS), vectors[-1])
    assert (results["state"] == "done").all()
    assert float(results["accuracy"].min()) > 0


def test_every_other_experiment_takes_the_same_file(
    dense: Path, pruned: Path, cluster: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = dense.parent
    kinds = ["--kind", "shuffle:layer,keep-signs", "--kind", "noise:1", "--kind", "reinit"]
    mask = ["--mask", f"{pruned / 'results.zarr'}@2"]
    words = ["--scheduler", cluster.scheduler_address, "--json"]
    assert command("perturb", dense, "--at", REWIND, *kinds, *mask, *words, "-o", folder / "p") == 0
    assert command("connect", dense, "--at", 0, "--alphas", 3, "--align", "weights", *words) == 0
    assert command("imp", dense, "--rewind", 0, "--levels", 1, "--pruning", "snip,synflow",
                   "--structure", "filter", *words) == 0  # fmt: skip
    assert command("record", "--from", f"{dense}@9", "-o", folder / "branch.zarr",
                   "-S", "optim.lr=0.001") == 0  # fmt: skip
    assert command("imp", dense, "--rewind", 0, "--levels", 2, "--dry-run", "--workers", 1) == 0
    found = [json.loads(line) for line in capfd.readouterr().out.splitlines() if line[:1] == "{"]
    assert [part["failed"] for part in found] == [{}, {}, {}]
    assert "instability" in found[1]["data_vars"]
    run = ckptlab.open_run(dense)
    asked = {"steps": f"{REWIND},{STEPS}", "samples": 20, "eigenvalues": 2}
    here, there = (
        run.analyze("hessian-spectrum", **asked, **where)["sharpness"]
        for where in ({}, {"scheduler": cluster.scheduler_address})
    )
    np.testing.assert_allclose(here, there, rtol=1e-4)
    assert "transformer.py" in run.attributes["plugins"]
    report = folder / "report.html"
    assert command("report", pruned, "-o", report) == 0
    assert "transformer" in report.read_text()


def test_the_study_is_planned(example, tmp_path: Path) -> None:
    from ckptlab.experiments.jobs.plan import ExperimentPlan
    from ckptlab.experiments.plans.study_file import load_study, planner

    study = load_study(EXAMPLES / "transformer.toml", overrides=[*SETTINGS, "train.steps=60"])
    plan = ExperimentPlan(title="", kind=study.kind)
    planner(study)(plan, study, 1)
    assert plan.dims == {
        "pruning": ["imp"],
        "rewind": [0, 50],
        "level": [0, 1, 2, 3, 4],
        "replicate": [0, 1],
    }


@pytest.mark.parametrize("script", ["transformer", "grokking"])
def test_scripts_learn(script: str, tmp_path: Path, capsys, monkeypatch) -> None:
    from ckptlab.analyze.registry.metrics import METRICS
    from ckptlab.train.problem_settings import PROBLEMS

    # What a script registers goes with the test.
    for registry in (PROBLEMS, METRICS):
        for held in ("_entries", "_origins"):
            kept = {k: v for k, v in getattr(registry, held).items() if k != script}
            monkeypatch.setattr(registry, held, kept)
    monkeypatch.setattr(sys, "argv", [script, "-o", str(tmp_path / "a.zarr"), "--steps", "120"])
    namespace: dict[str, object] = {"__name__": "example"}
    exec(compile((EXAMPLES / f"{script}.py").read_text(), script, "exec"), namespace)
    namespace["main"]()
    out = capsys.readouterr().out
    if script == "transformer":
        first, last = map(float, re.findall(r"([\d.]+) -> ([\d.]+) nats", out)[0])
        assert last < first
    else:
        rows = [line.split() for line in out.splitlines()[1:]]
        run = ckptlab.open_run(tmp_path / "a.zarr")
        for step, _, _, norm, rank in rows:
            weights = run.state_dict(int(step.replace(",", "")))
            whole = np.sqrt(sum(np.square(w.numpy()).sum() for w in weights.values()))
            assert float(norm) == pytest.approx(whole, abs=0.06)
            values = np.linalg.svd(weights["embed.weight"].numpy(), compute_uv=False)
            share = values / values.sum()
            assert float(rank) == pytest.approx(np.exp(-(share * np.log(share)).sum()), abs=0.06)
        assert int(rows[-1][1].rstrip("%")) > int(rows[0][2].rstrip("%"))
