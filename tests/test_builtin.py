"""What is rebuilt from a run of the built-in trainer, for each kind of task."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import ckptlab
from ckptlab.analyze.registry.metrics import metric_named
from ckptlab.builtin import inputs_for, rebuild
from ckptlab.errors import ConfigError, DataError
from tests.trained import train_tiny

SMALL = {"samples": 24, "batch_size": 24}
STAGED = ["task.factor=2", "task.stages=[{name = 'blur', steps = '0:5'}]"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tasks")
    common = ["model.name=mlp", "model.width=6", "eval.steps=0:13:6"]
    settings = {
        "rotation": ["task.name=rotation"],
        "random-labels": ["task.name=random-labels"],
        "staged": STAGED,
    }
    return {
        name: train_tiny(folder / f"{name}.zarr", *common, *extra)
        for name, extra in settings.items()
    }


@pytest.mark.parametrize("name", ["rotation", "random-labels", "staged"])
def test_recorded_evaluations_are_found_again(name: str, runs: dict[str, Path]) -> None:
    run = ckptlab.open_run(runs[name])
    recorded, again = run.analyze("evaluation"), run.analyze("evaluation", steps="0:13:6")
    np.testing.assert_array_equal(again["eval_accuracy"], recorded["eval_accuracy"])
    np.testing.assert_allclose(again["eval_loss"], recorded["eval_loss"], rtol=1e-6)


def test_metrics_of_a_network_with_other_answers(runs: dict[str, Path]) -> None:
    run = ckptlab.open_run(runs["rotation"])
    spectrum = run.analyze("hessian-spectrum", steps="12", **SMALL)
    # As many as there are answers.
    assert spectrum.sizes["eigenvalue"] == 4
    for labels in ("sampled", "exact", "empirical"):
        assert (run.analyze("fisher-trace", steps="0,12", labels=labels, **SMALL) > 0).all()
    line = run.analyze("connectivity", other=(run, 6), alphas=3, **SMALL)
    assert np.isfinite(line["instability"])


def test_examples_are_those_outside_the_stages(runs: dict[str, Path]) -> None:
    _, problem = rebuild(ckptlab.open_run(runs["staged"]).attributes)
    data, index = problem.train.task.data, np.array([5, 0, 1436])
    images, labels = problem.train.take(index)
    assert torch.equal(images, data.normalise(data.train[index]))
    assert torch.equal(labels, data.train_labels[index])


@pytest.mark.parametrize("split", ["train", "test"])
def test_examples_of_a_rotation_are_turned(split: str, runs: dict[str, Path]) -> None:
    _, problem = rebuild(ckptlab.open_run(runs["rotation"]).attributes)
    data, index = problem.train.task.data, np.arange(20)
    examples = getattr(problem, split)
    images, turns = examples.take(index)
    assert set(turns.tolist()) == {0, 1, 2, 3}
    upright = data.normalise((data.train if split == "train" else data.test)[index])
    for image, turn, before in zip(images, turns, upright, strict=True):
        assert torch.equal(image, torch.rot90(before, int(turn), dims=(1, 2)))
    again, _ = examples.take(index[::-1].copy())
    assert torch.equal(again.flip(0), images)


def hostile(run: ckptlab.Run, **sections: dict[str, object]) -> dict[str, object]:
    """The attributes of a run of which another author has changed the settings."""
    config = {key: dict(value) for key, value in run.attributes["config"].items()}
    for section, settings in sections.items():
        if section == "problem":
            config = {key: config[key] for key in ("train", "record", "eval")}
        config[section] = config.get(section, {}) | settings
    return {**run.attributes, "config": config}


@pytest.mark.parametrize("name", ["cifar10", "svhn", "mnist", "imagefolder"])
@pytest.mark.parametrize("there", [False, True])
def test_measuring_makes_nothing_where_a_run_points(
    name: str, there: bool, runs: dict[str, Path], tmp_path: Path
) -> None:
    root = tmp_path / "elsewhere"
    if there:
        root.mkdir()
    attributes = hostile(ckptlab.open_run(runs["rotation"]), data={"name": name, "root": str(root)})
    with pytest.raises(DataError, match="elsewhere"):
        rebuild(attributes)
    assert root.exists() == there
    assert not list(tmp_path.rglob("*")) or list(tmp_path.rglob("*")) == [root]


@pytest.mark.parametrize("section", ["model", "data", "task", "loss", "problem"])
def test_measuring_imports_nothing_that_a_run_names(
    section: str, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planted.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    attributes = hostile(
        ckptlab.open_run(runs["rotation"]), **{section: {"name": "planted:factory"}}
    )
    metric = metric_named("hessian-spectrum")
    with pytest.raises(ConfigError, match=r"planted:factory"), inputs_for(metric, attributes, {}):
        pass
    assert "planted" not in sys.modules
