import json

import numpy as np
import pytest
import torch
from PIL import Image

import ckptlab
from ckptlab.errors import ConfigError, DataError, UnknownNameError
from ckptlab.record.environment import device_model
from ckptlab.store.backends.open import open_storage
from ckptlab.store.read.reader import open_store
from ckptlab.store.write.writer import StoreWriter
from ckptlab.train.branch import branch_config
from ckptlab.train.config import load_config
from ckptlab.train.data_root import VARIABLE
from ckptlab.train.resume import (
    has_settings,
    require_same_machine,
    resume_config,
    stored_config,
)
from ckptlab.train.trainer import train
from tests.trained import train_tiny

# As commit ac48a7b stored the defaults with model.name=mlp: every setting of every optimizer,
# data set and task, with null for those that did not apply.
OLD = json.loads("""{
"model": {"name": "mlp", "width": 8},
"data": {"name": "digits", "root": null, "image_size": null, "channels": null, "classes": null,
  "samples": null, "seed": null, "flip": null, "crop": null},
"task": {"name": "supervised", "factor": null, "stages": []},
"optim": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": false, "weight_decay": 0.0001,
  "betas": [0.9, 0.999], "eps": 1e-08, "schedule": "constant", "milestones": [], "gamma": 0.1,
  "warmup": 0},
"train": {"steps": 12, "batch_size": 128, "seed": 0, "init_seed": null, "order_seed": null,
  "augment_seed": null, "task_seed": null, "threads": 1, "device": "auto", "deterministic": true,
  "graph": true, "precision": "fp32"},
"record": {"steps": "0:", "arrays": ["weights"], "codec": "dense", "budget": 0.03, "repack": false,
  "memory": "1GiB", "flush_seconds": 60.0, "sync_seconds": 10.0, "fsync": false},
"eval": {"steps": "0::1ep", "batch_size": null}}""")


def rewrite(path, config):
    """Give a run other settings, as if an earlier version had stored them."""
    writer = StoreWriter.resume(open_storage(path))
    writer.set_attributes(config=config)
    writer.finish("complete")


def test_a_run_of_an_earlier_version_goes_on_as_it_would_have(tmp_path):
    old, new = tmp_path / "old.zarr", tmp_path / "new.zarr"
    train_tiny(old, "model.name=mlp", "model.width=8")
    rewrite(old, OLD)
    assert open_store(old).attributes["config"] == OLD
    train(resume_config(str(old), ["train.steps=20"]), str(old), resume=True)
    train_tiny(new, "model.name=mlp", "model.width=8", "train.steps=20")
    a, b = ckptlab.open_run(old), ckptlab.open_run(new)
    assert np.array_equal(a.dataset.digest.values, b.dataset.digest.values)
    assert a.attributes["config"] == b.attributes["config"]


@pytest.mark.parametrize(
    ("section", "settings", "expected"),
    [
        ("optim", {"name": "adamw", "eps": 1e-6}, {"optim.name=adamw", "optim.eps=1e-6"}),
        # Then ignored: a momentum of adamw, milestones of a constant rate.
        ("optim", {"name": "adamw", "momentum": 0.5}, {"optim.name=adamw"}),
        ("optim", {"milestones": ["2ep"]}, set()),
        ("data", {"name": "synthetic", "classes": 5}, {"data.name=synthetic", "data.classes=5"}),
        ("data", {"name": "cifar10", "root": "x"}, {"data.name=cifar10", "data.root=x"}),
        ("data", {"name": "imagefolder", "root": "x"}, {"data.name=imagefolder", "data.root=x"}),
        ("task", {"name": "blur", "factor": 2}, {"task.name=blur", "task.factor=2"}),
        ("task", {"name": "blur"}, {"task.name=blur"}),
        (
            "task",
            {"factor": 2, "stages": [{"name": "blur", "factor": None, "steps": "0:5"}]},
            {"task.stages=[{name='blur', steps='0:5', factor=2}]"},
        ),
    ],
)
def test_settings_that_did_not_apply_are_left_out(section, settings, expected):
    stored = {**OLD, section: {**OLD[section], **settings}}
    common = ["model.name=mlp", "model.width=8", "train.steps=12", "train.threads=1"]
    config = load_config(overrides=[*common, "record.fsync=false", *sorted(expected)[::-1]])
    assert stored_config({"config": stored}) == config


@pytest.mark.parametrize("attributes", [{}, {"config": {}}, {"config": {"lr": 1}}, {"config": 3}])
def test_a_run_of_another_loop_has_no_settings(attributes):
    assert not has_settings(attributes)
    with pytest.raises(ConfigError, match="outside ckptlab"):
        stored_config(attributes)


COSINE = ["model.name=mlp", "model.width=8", "optim.schedule=cosine", "train.steps=20"]


def test_a_cosine_run_is_not_extended(tmp_path):
    path = train_tiny(tmp_path / "a.zarr", *COSINE)
    before = open_store(path).attributes
    with pytest.raises(ConfigError, match="differs from a 40-step run") as caught:
        resume_config(str(path), ["train.steps=40"])
    # What the message says is what torch's own scheduler gives.
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    rates = []
    for length in (20, 40):
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["initial_lr"] = 0.1
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, length)
        optimizer.step()
        scheduler.step()
        rates.append(f"{scheduler.get_last_lr()[0]:.4g}")
    assert f"update 1 has the rate {rates[0]} in the run and {rates[1]} there" in str(caught.value)
    assert open_store(path).attributes == before


@pytest.mark.parametrize(
    "schedule",
    [
        ["optim.schedule=constant"],
        ["optim.schedule=constant", "optim.warmup=30"],
        ["optim.schedule=constant", "optim.warmup=1ep"],
        ["optim.schedule=multistep", "optim.milestones=[15, '2ep']"],
    ],
)
def test_schedules_that_do_not_depend_on_the_length_are_extended(tmp_path, schedule):
    short = train_tiny(tmp_path / "a.zarr", *COSINE, *schedule)
    long = train_tiny(tmp_path / "b.zarr", *COSINE, *schedule, "train.steps=40")
    train(resume_config(str(short), ["train.steps=40"]), str(short), resume=True)
    for name in ("digest", "lr"):
        assert np.array_equal(
            open_store(short).small(name), open_store(long).small(name), equal_nan=True
        )


@pytest.fixture
def images(tmp_path):
    """Two classes of noise, in the folder of the run."""
    generator = np.random.default_rng(0)
    for half in ("train", "test"):
        for name in ("ant", "bee"):
            folder = tmp_path / "mine" / "images" / half / name
            folder.mkdir(parents=True)
            for i in range(4):
                pixels = generator.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "mine" / "images"


def test_images_beside_a_run_are_read_and_others_asked_for(images, tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    path = tmp_path / "mine" / "a.zarr"
    train_tiny(path, "model.name=mlp", "data.name=imagefolder", f"data.root={images}")
    expected = ckptlab.open_run(path).analyze("evaluation", steps="12")
    moved = tmp_path / "theirs" / "a.zarr"
    moved.parent.mkdir()
    path.rename(moved)
    named = f"data.root={str(images)!r}, outside .*--data-root {images}"
    for use in (
        lambda: ckptlab.open_run(moved).analyze("evaluation", steps="12"),
        lambda: resume_config(str(moved), ["train.steps=14"]),
        lambda: branch_config(open_store(moved)),
    ):
        with pytest.raises(DataError, match=named) as caught:
            use()
        assert "\n" not in str(caught.value)
    # Named by the user it may be followed, and replaced.
    config = resume_config(str(moved), ["train.steps=14", f"data.root={images}"])
    train(config, str(moved), resume=True)
    other = images.rename(tmp_path / "images")
    monkeypatch.setenv(VARIABLE, str(other))
    found = ckptlab.open_run(moved).analyze("evaluation", steps="12")
    assert np.array_equal(found.eval_loss.values, expected.eval_loss.values)
    assert branch_config(open_store(moved)).data.root == str(other)


def test_what_a_run_names_is_neither_made_nor_downloaded(tmp_path, monkeypatch):
    path = train_tiny(tmp_path / "a.zarr", "model.name=mlp", "data.name=digits")
    root = tmp_path / "not" / "here"
    config = dict(open_store(path).attributes["config"])
    config["data"] = {"name": "cifar10", "root": str(root), "flip": None, "crop": None}
    rewrite(path, config)
    with pytest.raises(DataError, match="nothing is downloaded"):
        ckptlab.open_run(path).analyze("evaluation", steps="12")
    assert not root.parent.exists()


def test_another_cudnn_gives_other_bits(monkeypatch):
    """Whose convolutions differ in the last bits; runs on a CPU and older ones name none."""
    device = torch.device("cpu")
    versions = {"torch": str(torch.__version__)}
    recorded = {"versions": versions, "device": {"model": device_model(device)}}
    require_same_machine(recorded, device)
    recorded["versions"] = versions | {"cudnn": "92400"}
    monkeypatch.setattr("ckptlab.train.resume.cudnn_version", lambda device: "92400")
    require_same_machine(recorded, device)
    monkeypatch.setattr("ckptlab.train.resume.cudnn_version", lambda device: "91900")
    with pytest.raises(ConfigError, match=r"cuDNN '92400', here it is '91900'"):
        require_same_machine(recorded, device)


@pytest.mark.parametrize("section", ["model", "problem", "optim", "loss"])
@pytest.mark.parametrize(("plugins", "file"), [(["mine.py"], "mine.py"), (None, "FILE.py")])
def test_a_name_that_a_plugin_registered_names_the_file(section, plugins, file):
    config = {"train": {"steps": 3}, "model": {"name": "mlp"}, section: {"name": "gone"}}
    if section == "problem":
        del config["model"]
    with pytest.raises(UnknownNameError, match=rf"unknown {section}\.name 'gone'.*--plugin {file}"):
        stored_config({"config": config, "plugins": plugins})
