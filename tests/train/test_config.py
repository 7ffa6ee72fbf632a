import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ckptlab.errors import ConfigError, UnknownNameError
from ckptlab.train.config import (
    Config,
    config_hash,
    default_path,
    load_config,
    override,
    parse_config,
)
from ckptlab.train.presets import PRESETS
from ckptlab.train.settings import models_in
from ckptlab.train.tasks.registry import Stage


def test_defaults_are_those_of_the_design():
    config = load_config()
    assert (config.model.name, config.data.name, config.task.name) == (
        "resnet20",
        "digits",
        "supervised",
    )
    assert (config.optim.lr, config.optim.momentum, config.optim.weight_decay) == (0.1, 0.9, 1e-4)
    assert (config.train.batch_size, config.train.steps, config.record.steps) == (128, 500, "0:")


def test_later_sources_win(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('[train]\nsteps = "2ep"\nbatch_size = 32\n[optim]\nlr = 1\n')
    config = load_config(path, ["train.batch_size=16"], preset="vgg13-cifar10")
    assert config.model.name == "vgg13"
    assert config.train.steps == "2ep"
    assert config.train.batch_size == 16
    assert config.optim.lr == 1.0
    assert config.optim.milestones == ("80ep", "120ep")


@pytest.mark.parametrize(
    ("text", "section", "key", "value"),
    [
        ("train.steps=300", "train", "steps", 300),
        ("train.steps=2ep", "train", "steps", "2ep"),
        ("train.steps='300it'", "train", "steps", "300it"),
        ("optim.lr=3e-2", "optim", "lr", 0.03),
        ("optim.nesterov=true", "optim", "nesterov", True),
        (
            "optim.schedule=multistep ; optim.milestones=80ep, 120ep",
            "optim",
            "milestones",
            ("80ep", "120ep"),
        ),
        (
            'optim.schedule=multistep ; optim.milestones=[80, "120ep"]',
            "optim",
            "milestones",
            (80, "120ep"),
        ),
        ("optim.schedule=multistep ; optim.milestones=80", "optim", "milestones", (80,)),
        ("optim.name=adamw ; optim.betas=[0.8, 0.9]", "optim", "betas", (0.8, 0.9)),
        ("record.arrays=weights,gradients", "record", "arrays", ("weights", "gradients")),
        ("record.steps=500", "record", "steps", "500"),
        # A time of day in TOML.
        ("record.steps=10:20:30", "record", "steps", "10:20:30"),
        ("record.memory=1048576", "record", "memory", "1048576"),
        ("record.memory=64 MiB", "record", "memory", "64 MiB"),
        ("eval.steps=none", "eval", "steps", None),
        ("model.name=wrn-16-8", "model", "name", "wrn-16-8"),
    ],
)
def test_overrides_are_toml_values_or_else_text(text, section, key, value):
    assert getattr(getattr(load_config(overrides=text.split(" ; ")), section), key) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train.batchsize=3", ["'train.batchsize'", "Did you mean 'train.batch_size'"]),
        ("trainn.steps=3", ["'trainn'", "Did you mean 'train'"]),
        ("train.steps=1.5", ["train.steps=1.5", "500it"]),
        ("train.steps=abc", ["train.steps='abc'", "500it"]),
        ("train.steps=-3", ["train.steps=-3"]),
        ("train.steps=true", ["train.steps=True"]),
        ("train.batch_size=0", ["train.batch_size=0", "whole number >= 1"]),
        ("train.batch_size=x", ["train.batch_size='x'", "whole number >= 1"]),
        ("train.batch_size=12.0", ["train.batch_size=12.0"]),
        ("train.seed=-1", ["train.seed=-1"]),
        ("train.device=gpu", ["train.device='gpu'", "auto, cpu or cuda"]),
        ("model.name=resnt20", ["model.name 'resnt20'", "Did you mean 'resnet20'", "vgg13"]),
        ("model.name=resnet21", ["'resnet21'", "6n+2", "20 or 26"]),
        ("model.name=wrn-15-8", ["'wrn-15-8'", "6n+4", "10 or 16"]),
        ("model.name=wrn-16-0", ["'wrn-16-0'"]),
        ("model.width=wide", ["model.width='wide'"]),
        ("data.name=cifar", ["data.name 'cifar'", "Did you mean 'cifar10'", "imagefolder"]),
        ("data.root=/x", ["data.root='/x'", "digits"]),
        ("data.name=mine:load ; data.classes=2", ["or write data.options.classes"]),
        ("task.name=supervized", ["task.name", "Did you mean 'supervised'"]),
        ("optim.name=sdg", ["optim.name", "Did you mean 'sgd'", "adamw"]),
        ("optim.schedule=cos", ["optim.schedule", "Did you mean 'cosine'", "constant"]),
        ("optim.lr=nan", ["optim.lr=nan"]),
        ("optim.lr=-1", ["optim.lr=-1"]),
        ("optim.momentum=1", ["optim.momentum=1", "[0, 1)"]),
        ("optim.milestones=80ep,12ex", ["optim.milestones", "12ex"]),
        ("optim.name=adamw ; optim.betas=[0.1, 2]", ["optim.betas[1]=2", "[0, 1)"]),
        ("optim.name=adamw ; optim.momentum=0.5", ["is for sgd. Leave optim.momentum out"]),
        ("optim.name=adamw ; optim.betas=[0.1]", ["optim.betas[1] is missing", "[0, 1)"]),
        ("optim.milestones=[80, -1]", ["optim.milestones[1]=-1"]),
        ("record.steps=10:5", ["record.steps='10:5'", "half-open"]),
        ("record.arrays=weight", ["record.arrays", "Did you mean 'weights'"]),
        ("record.codec=zstd", ["record.codec 'zstd'", "dense"]),
        ("record.memory=lots", ["record.memory='lots'", "512MiB"]),
        ("eval.steps=sometimes", ["eval.steps='sometimes'"]),
        ("task.name=blur ; task.factor=1", ["task.factor=1", ">= 2"]),
        ("task.factor=3", ["task.factor=3", "'supervised'", "blur, blur-rotation"]),
        ("task.stages=blur", ["task.stages='blur'", "a list of stages"]),
        ("task.stages=[3]", ["task.stages[0]=3", "a list of stages"]),
        ("task.stages=[{name = 'blur'}]", ["task.stages[0].steps is missing", '"0:40ep"']),
        (
            "task.stages=[{name = 'blur', steps = '0:3'}, {names = 'blur', steps = '3:5'}]",
            ["'task.stages[1].names'", "Did you mean 'task.stages[1].name'"],
        ),
        (
            "task.stages=[{name = 'blurr', steps = '0:3'}]",
            ["task.stages[0].name 'blurr'", "Did you mean 'blur'"],
        ),
        ("task.stages=[{name = 3, steps = '0:3'}]", ["task.stages[0].name=3", "a task name"]),
        (
            "task.stages=[{name = 'blur', steps = '0:3', factor = 1.5}]",
            ["task.stages[0].factor=1.5", ">= 2"],
        ),
        (
            "task.stages=[{name = 'rotation', steps = '0:3', factor = 2}]",
            ["task.stages[0].factor=2", "'rotation'", "blur, blur-rotation"],
        ),
        (
            "task.stages=[{name = 'blur', steps = '5:3'}]",
            ["task.stages[0].steps='5:3'", "half-open"],
        ),
        ("task.stages=[{name = 'blur', steps = '0:9:2'}]", ["task.stages[0].steps", "stride"]),
        ("task.stages=[{name = 'blur', steps = 'log:5'}]", ["task.stages[0].steps", "log"]),
        ("steps=3", ["'steps=3'", "section.key=value"]),
        ("train.steps", ["'train.steps'", "section.key=value"]),
    ],
)
def test_a_bad_setting_is_one_line_that_says_what_is_accepted(text, said):
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=text.split(" ; "))
    message = str(caught.value)
    assert "\n" not in message
    for part in said:
        assert part in message


def test_stages_in_a_file_and_in_an_override_are_the_same(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        '[task]\nfactor = 2\n[[task.stages]]\nname = "blur"\nsteps = "0:40ep"\n'
        '[[task.stages]]\nname = "random-labels"\nsteps = 500\n'
    )
    stages = "[{name='blur', steps='0:40ep'}, {name='random-labels', steps='500'}]"
    config = load_config(overrides=["task.factor=2", f"task.stages={stages}"])
    assert load_config(path) == config
    assert override(config, ["train.steps=3"]).task == config.task
    assert parse_config(json.loads(json.dumps(config.model_dump(mode="json")))) == config
    assert load_config(path, ["task.stages=[]", "task.factor=none"]) == load_config()


def test_runs_recorded_before_a_setting_existed_have_its_default():
    stored = load_config().model_dump(mode="json")
    del stored["task"]["stages"], stored["train"]["task_seed"]
    assert parse_config(stored) == load_config()


def test_a_section_must_be_a_table(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("train = 3\n")
    with pytest.raises(ConfigError, match="train=3 is not a section"):
        load_config(path)


def test_width_of_a_fixed_network_is_refused():
    with pytest.raises(ConfigError, match=r"model\.width=3.*lenet"):
        load_config(overrides=["model.name=lenet", "model.width=3"])


def test_nesterov_needs_momentum():
    with pytest.raises(ConfigError, match=r"optim\.nesterov"):
        load_config(overrides=["optim.momentum=0", "optim.nesterov=true"])


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "absent.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("[train\n")
    with pytest.raises(ConfigError, match="not TOML") as caught:
        load_config(bad)
    assert "\n" not in str(caught.value)
    bad.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(bad)


def test_unknown_preset_suggests():
    with pytest.raises(UnknownNameError, match="Did you mean 'resnet20-cifar10'"):
        load_config(preset="resnet20-cifar")


def test_sections_are_frozen():
    with pytest.raises(ValidationError):
        load_config().train.steps = 3


def test_settings_survive_json():
    for preset in (None, *PRESETS):
        config = load_config(
            preset=preset, overrides=["optim.name=adamw", "optim.betas=[0.5, 0.6]"]
        )
        stored = json.loads(json.dumps(config.model_dump(mode="json")))
        assert parse_config(stored) == config


@given(steps=st.integers(1, 10**6), seed=st.integers(0, 2**63 - 1), lr=st.floats(1e-6, 1e3))
def test_hash_tells_settings_apart_and_nothing_else(steps, seed, lr):
    overrides = [f"train.steps={steps}", f"train.seed={seed}", f"optim.lr={lr!r}"]
    config = load_config(overrides=overrides)
    assert config_hash(config) == config_hash(load_config(overrides=overrides[::-1]))
    assert config_hash(config) != config_hash(override(config, [f"train.steps={steps + 1}"]))


@pytest.mark.parametrize(
    ("overrides", "digits"),
    [
        # As version 0.1 (ac48a7b) gave them.
        ([], "90e0bda5d38421fa"),
        (["optim.lr=0.2"], "f7b11f1d895a255a"),
        (["optim.name=adamw", "optim.eps=1e-7"], "46920244c0a5bcb3"),
        (["data.name=synthetic", "data.classes=5"], "e58aae620dcde080"),
        (["data.name=imagefolder", "data.root=x"], "29a92a8f2e451db1"),
        (["task.name=blur", "task.factor=2"], "d6d65b13f68a0ceb"),
        (["task.stages=[{name='blur',steps='0:5'}]"], "188d3e6636f33c49"),
    ],
)
def test_hashes_stay_those_of_earlier_versions(overrides, digits):
    assert config_hash(load_config(overrides=overrides)) == digits


def test_default_path():
    config = load_config()
    assert default_path(config) == f"runs/resnet20-digits-{config_hash(config)[:8]}.zarr"
    config = load_config(preset="mlp")
    assert default_path(config, "mlp") == f"runs/mlp-{config_hash(config)[:8]}.zarr"
    config = load_config(overrides=["model.name=torchvision:alexnet"])
    assert ":" not in default_path(config)


def test_every_setting_is_documented():
    holds = [section.annotation for section in Config.model_fields.values()]
    for section in (model for held in [*holds, Stage] for _, model in models_in(held)):
        for name, field in section.model_fields.items():
            assert field.description, name
            assert field.json_schema_extra["accepted"], name


def test_reading_settings_does_not_import_torch():
    code = (
        "import sys; from ckptlab.train.config import load_config; "
        "load_config(preset='resnet20-cifar10'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
