"""A user's own network, data, task, optimizer and schedule, each through every door."""

import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

import ckptlab
from ckptlab.errors import ConfigError, PluginError, UntrustedNameError
from ckptlab.registry import _allowed
from ckptlab.store.read.reader import open_store
from ckptlab.train.assemble import build
from ckptlab.train.config import load_config
from ckptlab.train.resume import resume_config
from ckptlab.train.trainer import train
from tests.forks import run_code

MODULE = '''
import ckptlab, numpy as np, torch
from torch import nn
from ckptlab.train.tasks.task import Batch, Task

@ckptlab.model(name="own-net")
def net(classes, channels, image_size, hidden: int = 5):
    """A tiny network."""
    first = nn.Linear(channels * image_size**2, hidden)
    return nn.Sequential(nn.Flatten(), first, nn.Tanh(), nn.Linear(hidden, classes))

@ckptlab.dataset(name="own-data")
def data(classes: int = 3):
    rng = np.random.default_rng(0)
    labels = np.arange(90) % classes
    images = (rng.integers(0, 60, (90, 4, 4)) + 60 * labels[:, None, None]).astype(np.uint8)
    return images[:60], labels[:60], torch.tensor(images[60:]), torch.tensor(labels[60:])

@ckptlab.task(name="own-task", answers=("even", "odd"))
def parity(data, seed):
    def change(batch, step=0):
        return Batch(batch.images, batch.labels % 2, batch.index)
    return Task(answers=("even", "odd"), data=data, train=change, test=change)

@ckptlab.optimizer(name="own-optimizer")
def optimizer(params, lr, rho: float = 0.9):
    return torch.optim.RMSprop(params, lr=lr / 100, alpha=rho)

@ckptlab.schedule(name="own-schedule")
def schedule(step, power: float = 0.5):
    return (step + 1) ** -power
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of a user, importable; the registries forget it afterwards."""
    from ckptlab.train.datasets.registry import DATA_SOURCES
    from ckptlab.train.learning_rate import RATE_SCHEDULES
    from ckptlab.train.models.registry import MODELS
    from ckptlab.train.optimizers import OPTIMIZERS
    from ckptlab.train.tasks.registry import TASKS

    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)
    _allowed.clear()
    for registry in (MODELS, DATA_SOURCES, TASKS, OPTIMIZERS, RATE_SCHEDULES):
        for own in [n for n, origin in registry._origins.items() if origin != "ckptlab"]:
            del registry._entries[own], registry._origins[own]


def settings(module):
    return [
        f"model.name={module}:net",
        "model.options.hidden=6",
        f"data.name={module}:data",
        "data.options={classes=4}",
        f"task.name={module}:parity",
        f"optim.name={module}:optimizer",
        "optim.options.rho=0.5",
        f"optim.schedule={module}:schedule",
        "optim.schedule_options.power=1",
        "train.batch_size=20",
        "train.steps=8",
        "train.threads=1",
        "train.device=cpu",
        "record.fsync=false",
    ]


def test_a_run_of_a_users_own_parts_is_what_a_plain_loop_does(module, tmp_path):
    config = load_config(overrides=settings(module))
    assert module not in sys.modules, "settings are checked without importing what they name"
    path = str(tmp_path / "a.zarr")
    train(config, path)
    own, stored = sys.modules[module], open_store(path)
    assert stored.attributes["classes"] == ["even", "odd"]
    assert stored.small("lr")[1:] == pytest.approx([0.1 / (k + 1) for k in range(8)])
    # The same by hand: module, data and optimizer, in the order and from the start recorded.
    training = build(config)
    images, labels, _, _ = own.data(4)
    mean, std = images.mean() / 255, (images / 255).std()
    network = own.net(2, 1, 4, hidden=6)
    network.load_state_dict(ckptlab.open_run(path).state_dict(0))
    optimizer = own.optimizer(network.parameters(), 0.1, rho=0.5)
    for k in range(8):
        index = training.update.order.batch_at(k).numpy()
        optimizer.param_groups[0]["lr"] = 0.1 / (k + 1)
        x = torch.tensor((images[index] / 255 - mean) / std, dtype=torch.float32)[:, None]
        loss = nn.functional.cross_entropy(network(x), torch.tensor(labels[index] % 2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = nn.utils.parameters_to_vector(network.parameters()).detach().numpy()
    np.testing.assert_allclose(stored.snapshot(8), found, atol=1e-4)


def test_resuming_needs_the_users_word(module, tmp_path):
    whole, stopped = str(tmp_path / "whole.zarr"), str(tmp_path / "stopped.zarr")
    train(load_config(overrides=[*settings(module), "train.steps=14"]), whole)
    train(load_config(overrides=settings(module)), stopped)
    _allowed.clear()
    # Opened and measured, the run imports nothing.
    assert ckptlab.open_run(stopped).analyze("weight-distance").size
    with pytest.raises(UntrustedNameError, match=rf"{module}:\w+.*--allow"):
        train(resume_config(stopped, ["train.steps=14"]), stopped, resume=True)
    for name in ("net", "data", "parity", "optimizer", "schedule"):
        ckptlab.allow(f"{module}:{name}")
    train(resume_config(stopped, ["train.steps=14"]), stopped, resume=True)
    assert np.array_equal(open_store(whole).small("digest"), open_store(stopped).small("digest"))


def test_registered_names_and_a_plugin_file(module, tmp_path):
    __import__(module)
    names = ["model.name=own-net", "data.name=own-data", "task.name=own-task"]
    names += ["optim.name=own-optimizer", "optim.schedule=own-schedule"]
    config = load_config(overrides=[*names, "train.steps=2", "train.device=cpu"])
    assert build(config).evaluate().loss > 0
    script = textwrap.dedent(f"""
        from ckptlab.cli import main
        main(["--plugin", {str(tmp_path / (module + ".py"))!r}, "record", "-o", "p.zarr",
              "-S", "model.name=own-net", "-S", "data.name=own-data", "-S", "train.steps=3"])
    """)
    done = run_code(script, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert open_store(tmp_path / "p.zarr").steps.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.name={}:missing"], "object of"),
        (["model.name=no_such_module:net"], "no_such_module cannot be imported"),
        (["model.name={}:net", "model.options.hiden=3"], "Did you mean 'hidden'"),
        (["model.name={}:data"], "makes tuple; a torch.nn.Module is needed"),
        (["data.name={}:net"], "needs classes"),
        (["optim.name={}:net"], "needs classes"),
        (["task.name={}:optimizer"], "needs"),
        (["data.name=builtins:list"], "returns list"),
        (["model.name=mlp", "model.options.hidden=3"], "only networks of your own"),
    ],
)
def test_what_cannot_be_used_is_one_line(module, overrides, said):
    with pytest.raises((ConfigError, ckptlab.errors.DataError), match=said) as caught:
        build(load_config(overrides=[text.format(module) for text in overrides]))
    assert "\n" not in str(caught.value)


def test_names_are_taken_once_and_things_that_cannot_be_called_refused():
    with pytest.raises(PluginError, match="Choose another name"):
        ckptlab.model(name="mlp")(lambda: nn.Linear(1, 1))
    with pytest.raises(PluginError, match="give the function or class"):
        ckptlab.model(name="instance")(nn.Linear(1, 1))
    with pytest.raises(PluginError, match="function"):
        ckptlab.dataset(name="array")(np.zeros(3))
