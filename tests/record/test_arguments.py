"""What the Recorder is given wrongly is told in one line, before anything is written."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ckptlab
from ckptlab.errors import CkptlabError, ConfigError, LayoutError
from ckptlab.record.arguments import plain
from ckptlab.store.read.reader import open_store
from tests.record.loops import everything, record, run, small


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"steps": 100}, r'steps=100 is not a schedule; accepted: "0:100" for every step before'),
        ({"steps": [0, 2]}, r'accepted: text: "0, 2" for these steps alone'),
        ({"steps": None}, r'steps=None is not a schedule; accepted: text such as "0:2000'),
        ({"start": -3}, "start=-3 is not accepted; accepted: a whole number >= 0"),
        ({"start": 2.5}, "start=2.5 is not accepted"),
        ({"total_steps": -1}, "total_steps=-1 is not accepted"),
        ({"flush_seconds": -1}, "flush_seconds=-1 is not accepted; accepted: a number of seconds"),
        ({"sync_seconds": float("nan")}, "sync_seconds=nan is not accepted"),
        ({"sync_seconds": "10"}, "sync_seconds='10' is not accepted"),
        ({"arrays": "gradient"}, "Did you mean 'gradients'"),
        ({"include": 3}, r'include=3 is not accepted; accepted: strings such as \["layer1'),
        ({"codec": "zip"}, "codec 'zip'"),
        ({"resume": "yes"}, "resume='yes' is not accepted; accepted: True, False, 'auto'"),
        ({"resume": True, "overwrite": True}, "goes on with the run that overwrite=True replaces"),
        ({"at": 3}, "at=3 is a step of a run that is resumed; give resume=True"),
        ({"resume": True, "at": -1}, "at=-1 is not accepted"),
        ({"ranks": "all"}, "ranks='all' is not accepted; accepted: 'first', 'each'"),
        ({"config": 3}, "config is of type int; accepted: a mapping, a namespace or a dataclass"),
    ],
)
def test_an_argument_that_is_not_accepted_is_named_with_what_is(tmp_path, options, problem):
    model, optimizer = small()
    with pytest.raises(CkptlabError, match=problem) as raised:
        record(tmp_path / "run", model, optimizer, **options)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_one_string_is_one_pattern_and_one_array(tmp_path):
    model, optimizer = everything()
    with record(tmp_path, model, optimizer, include="first.*", arrays="gradients") as recorder:
        run(recorder, model, optimizer, 2)
    stored = open_store(tmp_path)
    assert stored.layout.names == ("first.weight", "first.bias")
    assert {"weights", "gradients"} <= set(stored.arrays)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    model, optimizer = small()
    with record(kind("~/x.zarr"), model, optimizer):
        pass
    assert open_store(tmp_path / "x.zarr").steps.tolist() == [0]
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (lambda o: small, "optimizer is of type function; accepted: a torch.optim.Opt"),
        (lambda o: [], "names no optimizer, or one twice"),
        (lambda o: [o, o], "names no optimizer, or one twice"),
        (lambda o: {"a b": o}, "optimizer 'a b' has a name that is not accepted"),
        (lambda o: {"a": 3}, "optimizer 'a' is of type int"),
        (lambda o: [o, small()[1]], r"the SGD \(1\) trains no parameter.*nn.ModuleDict"),
    ],
)
def test_optimizers_are_checked_before_an_update(tmp_path, wrong, problem):
    model, optimizer = small()
    with pytest.raises(ConfigError, match=problem):
        record(tmp_path / "run", model, wrong(optimizer))


def test_an_optimizer_of_another_model_is_refused(tmp_path):
    other = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.raises(ConfigError, match="the SGD trains no parameter of the model"):
        record(tmp_path / "run", small()[0], other)


class Wrapping(torch.optim.Optimizer):
    """As Accelerate's `AcceleratedOptimizer`: never initialised, it holds the real one."""

    def __init__(self, optimizer) -> None:
        self.optimizer = optimizer


def test_an_optimizer_inside_a_wrapper_is_the_one_that_is_recorded(tmp_path):
    model, optimizer = small()
    with record(tmp_path, model, Wrapping(optimizer)) as recorder:
        run(recorder, model, optimizer, 3)
    stored = open_store(tmp_path)
    assert stored.small("lr")[1:].tolist() == [0.1] * 3
    assert set(stored.anchor(3).states) == {"momentum_buffer"}


def test_resuming_needs_the_optimizer_that_was_recorded(tmp_path):
    model, optimizer = small()
    with record(tmp_path, model, optimizer) as recorder:
        run(recorder, model, optimizer, 3)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    adam = torch.optim.Adam(model.parameters())
    with (
        pytest.raises(LayoutError, match=r"dampening.*Adam has amsgrad, betas.*was recorded"),
        record(tmp_path, model, adam, resume=True),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="holds the state of its optimizer, which would be lost"),
        record(tmp_path, model, None, resume=True),
    ):
        pass
    before.pop(tmp_path / "writer.lock", None)
    assert all(path.read_bytes() == data for path, data in before.items())


def test_an_optimizer_that_gained_settings_since_is_still_the_same_kind(tmp_path):
    """A newer torch adds settings; a scheduler adds its own to the recorded ones."""
    model, optimizer = small()
    torch.optim.lr_scheduler.StepLR(optimizer, 5)
    with record(tmp_path, model, optimizer) as recorder:
        run(recorder, model, optimizer, 3)
    again, restored = small()
    restored.defaults["future"] = restored.param_groups[0]["future"] = False
    with record(tmp_path, again, restored, resume=True) as recorder:
        assert recorder.step_number == 3


@pytest.mark.filterwarnings("ignore:no gradient was there")
def test_a_run_without_an_optimizer_says_that_its_state_starts_anew(tmp_path):
    model, optimizer = small()
    with record(tmp_path, model, None) as recorder:
        recorder.step()
    with (
        pytest.warns(UserWarning, match="recorded without its optimizer"),
        record(tmp_path, model, optimizer, resume=True),
    ):
        pass


@dataclass
class Settings:
    folder: Path
    rate: np.float32


def test_settings_of_any_form_become_json(tmp_path):
    model, optimizer = small()
    config = argparse.Namespace(
        data=Path("a/b"),
        lr=np.float64(0.5),
        sizes=np.arange(3),
        nested={1: {"dtype": torch.bfloat16, "device": torch.device("cpu")}, "t": (1, 2)},
        part=Settings(Path("c"), np.float32(0.25)),
    )
    with record(tmp_path, model, optimizer, config=config, seeds={"init": np.int64(3)}):
        pass
    run_ = ckptlab.open_run(tmp_path)
    assert run_.attributes["config"] == {
        "data": "a/b",
        "lr": 0.5,
        "sizes": [0, 1, 2],
        "nested": {"1": {"dtype": "bfloat16", "device": "cpu"}, "t": [1, 2]},
        "part": {"folder": "c", "rate": 0.25},
    }
    assert run_.attributes["seeds"] == {"init": 3}


def test_what_is_not_known_stays_for_the_store_to_refuse(tmp_path):
    thing = object()
    assert plain({"a": [thing]})["a"][0] is thing
    model, optimizer = small()
    with (
        pytest.raises(ConfigError, match="config cannot be stored"),
        record(tmp_path / "run", model, optimizer, config={"a": thing}),
    ):
        pass
    assert not (tmp_path / "run").exists()
