import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ckptlab.errors import (
    DataError,
    RunExistsError,
    UnsupportedTensorError,
)
from ckptlab.record.convert.find_checkpoints import find_checkpoints
from ckptlab.record.convert.import_checkpoints import import_checkpoints
from ckptlab.record.convert.infer_layout import layout_of
from ckptlab.record.state.model_tensors import capture
from ckptlab.run import open_run
from ckptlab.store.maintain.verify import verify
from ckptlab.store.write.block_writer import BlockWriter
from ckptlab.train.assemble import build
from ckptlab.train.config import load_config
from tests.record.loops import Everything


def walk(model, steps):
    """Change every number of a model at each step, and give its states."""
    for step in steps:
        torch.manual_seed(step)
        with torch.no_grad():
            for value in model.state_dict().values():
                if value.is_floating_point():
                    value.add_(torch.randn(value.shape))
                else:
                    value.add_(1)
        yield step, {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_every_bit_of_a_folder_of_checkpoints_comes_back(tmp_path, suffix):
    model = Everything().eval()
    states = dict(walk(model, [0, 7, 10, 100, 1000]))
    save = save_file if suffix == ".safetensors" else torch.save
    (tmp_path / "old").mkdir()
    for step, state in states.items():
        save(state, tmp_path / "old" / f"net_step{step}{suffix}")
    (tmp_path / "old" / "readme.txt").write_text("not one of them")
    seen = []
    done = import_checkpoints(
        tmp_path / "old", tmp_path / "run", progress=lambda *count: seen.append(count)
    )
    assert (done.steps, done.first, done.last) == (5, 0, 1000)
    assert seen == sorted(seen)
    assert seen[-1] == (5, 5)
    run = open_run(tmp_path / "run")
    assert run.state == "complete"
    assert run.steps.tolist() == list(states)
    assert verify(tmp_path / "run", deep=True).ok
    for step, state in states.items():
        found = run.state_dict(step)
        assert found.keys() == state.keys()
        for name, value in state.items():
            assert found[name].dtype == value.dtype
            assert torch.equal(found[name], value), name


@pytest.mark.parametrize("name", ["resnet20", "vgg11", "lenet", "mlp", "wrn-16-8"])
def test_names_and_shapes_tell_what_the_modules_would(name):
    pictures = ["data.name=synthetic", "data.image_size=32", "data.channels=3", "data.samples=64"]
    model = build(load_config(overrides=[f"model.name={name}", *pictures])).model
    expected, found = capture(model).layout, layout_of(model.state_dict())
    assert found.tensors == expected.tensors
    assert {b.name: (b.shape, b.dtype, b.array) for b in found.buffers} == {
        b.name: (b.shape, b.dtype, b.array) for b in expected.buffers
    }


def test_transformers_are_told_apart_too():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.ModuleDict({"wte": nn.Embedding(50, 16), "layer": layer, "head": nn.Linear(16, 50)})
    model["head"].weight = model["wte"].weight
    expected = {t.name: t.kind for t in capture(model).layout.tensors}
    layout = layout_of(model.state_dict())
    assert {t.name: t.kind for t in layout.tensors} == expected
    assert layout["wte.weight"].aliases == ("head.weight",)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_in_a_file_is_not_run(tmp_path):
    (tmp_path / "old").mkdir()
    torch.save({"weight": torch.ones(2), "x": Evil(str(tmp_path / "owned"))}, tmp_path / "old/1.pt")
    with pytest.raises(DataError, match=r"1\.pt is damaged, or holds objects whose code"):
        import_checkpoints(tmp_path / "old", tmp_path / "run")
    (tmp_path / "old/1.pt").write_bytes(pickle.dumps(Evil(str(tmp_path / "owned"))))
    with pytest.raises(DataError, match=r"1\.pt"):
        import_checkpoints(tmp_path / "old", tmp_path / "run")
    assert [entry.name for entry in tmp_path.iterdir()] == ["old"]


def fill(folder, **contents):
    folder.mkdir()
    for name, content in contents.items():
        if isinstance(content, bytes):
            (folder / f"{name}.pt").write_bytes(content)
        else:
            torch.save(content, folder / f"{name}.pt")
    return folder


ONE = {"weight": torch.ones(3, 2)}
LOOP: dict = {}
LOOP["model"] = LOOP


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ({}, "holds no file that ends in .safetensors, .pt, .pth"),
        ({"best": ONE}, r"best\.pt has no step in its name"),
        ({"a5": ONE, "a05": ONE}, r"a05\.pt and a5\.pt both count as step 5"),
        ({"a5": ONE, "b05": ONE}, r"holds 2 series: 'a', 'b'; take one with --pattern"),
        ({"a1": b"nonsense"}, r"a1\.pt"),
        ({"a1": b""}, r"a1\.pt"),
        ({"a1": {"epoch": 3}}, r"a1\.pt holds no tensors by name"),
        ({"a1": [1, 2]}, r"a1\.pt holds no tensors by name"),
        ({"a1": LOOP}, r"a1\.pt holds no tensors by name"),
        ({"a1": {"w": torch.empty(3, device="meta")}}, r"a1\.pt: tensor 'w' holds no values"),
        ({"a9999999999999999999": ONE}, "9999999999999999999 is no step; at most 15 digits"),
        ({"a1": {"n": torch.ones(2, dtype=torch.int64)}}, "holds no parameter of type float32"),
    ],
)
def test_folders_that_cannot_be_imported_leave_no_run(tmp_path, contents, said):
    folder = fill(tmp_path / "old", **contents)
    with pytest.raises(DataError, match=said) as error:
        import_checkpoints(folder, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_no_folder_and_types_that_cannot_be_stored(tmp_path):
    with pytest.raises(DataError, match="none is no folder"):
        find_checkpoints(tmp_path / "none")
    folder = fill(tmp_path / "old", a1={"w": torch.ones(2, dtype=torch.complex64)})
    with pytest.raises(UnsupportedTensorError, match=r"'w' \(complex64\).*take it out"):
        import_checkpoints(folder, tmp_path / "run")


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"weight": torch.ones(3, 3)}, r"'weight' is float32 of shape \(3, 3\), there float32"),
        ({"weight": torch.ones(3, 2).half()}, r"'weight' is float16 of shape \(3, 2\)"),
        ({"other": torch.ones(3, 2)}, "a3.*lacks tensor"),
        ({**ONE, "more": torch.ones(1)}, r"a1\.pt lacks tensor 'more'"),
        (b"cut off", r"a3\.pt"),
    ],
)
def test_a_file_that_differs_is_named_before_anything_is_written(tmp_path, odd, said):
    folder = fill(tmp_path / "old", a1=ONE, a2=ONE, a3=odd, a4=ONE)
    with pytest.raises(DataError, match=said):
        import_checkpoints(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_checkpoints_than_a_block_holds(tmp_path):
    states = {f"s{i}": {"weight": torch.full((3, 2), float(i))} for i in range(9)}
    folder = fill(tmp_path / "old", **states)
    import_checkpoints(folder, tmp_path / "run", memory=3 * 4 * 24, codec="fast")
    run = open_run(tmp_path / "run")
    assert (run.attributes["block"], run.attributes["codec"]) == (4, "fast")
    weights = run["weight"].values
    assert np.array_equal(weights, np.broadcast_to(np.arange(9)[:, None, None], (9, 3, 2)))
    with pytest.raises(RunExistsError):
        import_checkpoints(folder, tmp_path / "run")
    assert import_checkpoints(folder, tmp_path / "run", overwrite=True).steps == 9


def test_tensors_that_are_tied_in_the_first_file_only(tmp_path):
    shared = torch.zeros(3, 2)
    parted = {"a.weight": torch.ones(3, 2), "b.weight": torch.zeros(3, 2)}
    still = {"a.weight": torch.full((3, 2), torch.nan), "b.weight": torch.full((3, 2), torch.nan)}
    first = {"a.weight": shared, "b.weight": shared}
    folder = fill(tmp_path / "old", s1=first, s2=still, s3=parted)
    with pytest.raises(DataError, match=r"s3\.pt: tensors 'a\.weight' and 'b\.weight' differ"):
        import_checkpoints(folder, tmp_path / "run")
    assert open_run(tmp_path / "run").steps.tolist() == [1, 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(7,), ()])
def test_infinities_and_what_is_no_number_keep_their_bits(tmp_path, dtype, shape):
    for step, value in enumerate([torch.nan, -torch.nan, torch.inf, -torch.inf, -0.0, 1.5]):
        (tmp_path / "old").mkdir(exist_ok=True)
        state = {"weight": torch.full(shape, value, dtype=dtype), "other": torch.ones(1)}
        torch.save(state, tmp_path / "old" / f"s{step}.pt")
    import_checkpoints(tmp_path / "old", tmp_path / "run")
    for step in range(6):
        expected = torch.load(tmp_path / "old" / f"s{step}.pt")["weight"]
        found = open_run(tmp_path / "run").state_dict(step)["weight"]
        assert (found.dtype, found.shape) == (dtype, expected.shape)
        whole = torch.int32 if dtype == torch.float32 else torch.int16
        assert torch.equal(found.view(whole), expected.view(whole)), step


def test_an_interrupt_within_a_commit_leaves_a_whole_run(tmp_path, monkeypatch):
    folder = fill(tmp_path / "old", **{f"s{i}": ONE for i in range(5)})
    mark = BlockWriter.mark

    def interrupted(self, axis, start, steps):
        mark(self, axis, start, steps)
        if start == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(BlockWriter, "mark", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_checkpoints(folder, tmp_path / "run", memory=3 * 2 * 24)
    assert verify(tmp_path / "run", deep=True).ok
    run = open_run(tmp_path / "run")
    assert (run.steps.tolist(), run.state) == ([0, 1, 2, 3], "interrupted")


def test_what_is_no_file_is_passed_over_or_refused(tmp_path):
    folder = fill(tmp_path / "old", s1=ONE)
    import_checkpoints(folder, folder / "run2.pt")
    assert import_checkpoints(folder, tmp_path / "run").steps == 1
    assert open_run(tmp_path / "run").attributes["block"] == 1
    os.mkfifo(folder / "s3.pt")
    with pytest.raises(DataError, match=r"s3\.pt is no file that can be read"):
        import_checkpoints(folder, tmp_path / "run")


def test_steps_far_apart_are_measured_without_counting_up_to_them(tmp_path):
    names = ("s1700000000000", "s1700000600000")
    import_checkpoints(fill(tmp_path / "old", **dict.fromkeys(names, ONE)), tmp_path / "run")
    found = open_run(tmp_path / "run").analyze("weight-distance")
    assert found.values.tolist() == [0, 0]
