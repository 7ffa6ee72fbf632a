import numpy as np
import pytest
import torch

from ckptlab.errors import ConfigError
from ckptlab.store.read.reader import open_store
from ckptlab.train.config import load_config
from ckptlab.train.interleave import train_together
from ckptlab.train.trainer import prepare, train

SMALL = [
    "model.name=resnet8",
    "model.width=2",
    "data.name=synthetic",
    "data.image_size=8",
    "data.samples=96",
    "train.batch_size=32",
    "record.fsync=false",
    "eval.steps=0::2ep",
]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def config_of(*overrides: str, device: str = "cpu"):
    return load_config(overrides=[*SMALL, f"train.device={device}", "train.threads=1", *overrides])


DIFFERENT = [
    ["train.steps=40"],
    ["train.steps=25", "train.seed=3"],
    ["train.steps=40", "optim.lr=0.02", "task.name=rotation"],
    ["train.steps=33", "model.name=mlp", "model.width=none"],
]


def same(one, other) -> bool:
    one, other = open_store(one), open_store(other)
    assert one.state == other.state == "complete"
    names = ("step", "digest", "loss", "lr", "eval_step", "eval_accuracy")
    return all(np.array_equal(one.small(n), other.small(n), equal_nan=True) for n in names)


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])]
)
def test_each_trains_as_it_would_alone(tmp_path, device):
    configs = [config_of(*overrides, device=device) for overrides in DIFFERENT]
    requests = [prepare(c, str(tmp_path / f"together-{i}.zarr")) for i, c in enumerate(configs)]
    assert train_together(requests) == [None] * 4
    for i, config in enumerate(configs):
        train(config, str(tmp_path / f"alone-{i}.zarr"))
        assert same(tmp_path / f"together-{i}.zarr", tmp_path / f"alone-{i}.zarr")


@pytest.mark.parametrize(
    ("device", "batch", "rounds"),
    [("cpu", 32, 1), pytest.param("cuda", 512, 3, marks=[pytest.mark.gpu, needs_cuda])],
)
def test_matrix_products_at_once_do_not_write_into_one_workspace(tmp_path, device, batch, rounds):
    """Products that cuBLAS splits need scratch memory, which graphs at once must not share."""
    common = ["model.name=mlp", "model.width=none", f"train.batch_size={batch}"]
    common += [f"data.samples={4 * batch}", "eval.steps=none"]
    seeds = range(8)
    many = [
        config_of(*common, f"train.steps={4 + seed}", f"train.seed={seed}", device=device)
        for seed in seeds
    ]
    for i, config in enumerate(many):
        train(config, str(tmp_path / f"alone-{i}.zarr"))
    for turn in range(rounds):
        paths = [str(tmp_path / f"together-{turn}-{i}.zarr") for i in range(8)]
        requests = [prepare(c, path) for c, path in zip(many, paths, strict=True)]
        assert train_together(requests) == [None] * 8
        for i, path in enumerate(paths):
            assert same(path, tmp_path / f"alone-{i}.zarr")


def test_one_that_fails_leaves_the_others_alone(tmp_path):
    (tmp_path / "taken.zarr").mkdir()
    (tmp_path / "taken.zarr" / "file").write_text("not a run")
    requests = [
        prepare(config_of("train.steps=10"), str(tmp_path / "taken.zarr")),
        prepare(config_of("train.steps=10"), str(tmp_path / "fine.zarr")),
        prepare(
            config_of("train.steps=40", "data.samples=64"),
            str(tmp_path / "failing.zarr"),
            on_progress=_fail,
        ),
    ]
    failures = train_together(requests)
    assert "taken.zarr" in str(failures[0])
    assert failures[1] is None
    assert "progress" in str(failures[2])
    assert open_store(tmp_path / "fine.zarr").state == "complete"
    assert open_store(tmp_path / "failing.zarr").state == "interrupted"
    assert open_store(tmp_path / "failing.zarr").steps[-1] == 40


def _fail(report):
    # It is asked now and then, and at the end.
    if report.step == 40:
        raise ValueError("no progress can be shown")


def test_an_interrupt_commits_what_all_of_them_have(tmp_path):
    def interrupt(report):
        if report.step == 20:
            raise KeyboardInterrupt

    requests = [
        prepare(config_of("train.steps=200"), str(tmp_path / "long.zarr")),
        prepare(config_of("train.steps=20"), str(tmp_path / "short.zarr"), on_progress=interrupt),
    ]
    with pytest.raises(KeyboardInterrupt):
        train_together(requests)
    long = open_store(tmp_path / "long.zarr")
    assert long.state == "interrupted"
    assert long.steps[-1] in (20, 21)
    train(config_of("train.steps=200"), str(tmp_path / "long.zarr"), resume=True)
    train(config_of("train.steps=200"), str(tmp_path / "alone.zarr"))
    assert same(tmp_path / "long.zarr", tmp_path / "alone.zarr")


def test_what_is_done_is_not_prepared_and_numerics_must_agree(tmp_path):
    config = config_of("train.steps=4")
    train(config, str(tmp_path / "a.zarr"))
    assert prepare(config, str(tmp_path / "a.zarr"), resume=True) is None
    assert train_together([]) == []
    one = prepare(config, str(tmp_path / "b.zarr"))
    other = prepare(config_of("train.steps=4", "train.threads=2"), str(tmp_path / "c.zarr"))
    with pytest.raises(ConfigError, match=r"the same train\.threads; they have 1 and 2"):
        train_together([one, other])
