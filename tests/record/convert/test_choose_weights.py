"""What checkpoints hold beside the model is never taken for it, nor a part of it lost."""

import pytest
import torch
from safetensors.torch import save_file, save_model

from ckptlab.errors import DataError
from ckptlab.record.convert.choose_weights import choose_weights
from ckptlab.record.convert.find_checkpoints import Choice
from ckptlab.record.convert.import_checkpoints import import_checkpoints
from ckptlab.record.convert.infer_layout import layout_of
from ckptlab.record.convert.readers.pickles import read_torch_file
from ckptlab.record.convert.readers.safetensors_file import read_safetensors
from ckptlab.run import open_run
from tests.record.convert.test_layouts import net, same_bits, state

A, B = {"weight": torch.ones(2, 2)}, {"weight": torch.zeros(2, 2)}


def chosen(tmp_path, content, **options):
    torch.save(content, tmp_path / "a.pt")
    return choose_weights(read_torch_file(tmp_path / "a.pt"), "a.pt", **options)


def read(tensor):
    return torch.from_numpy(tensor.elements(0, tensor.size)).reshape(tensor.shape)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "module", "net"])
def test_the_model_is_found_and_the_optimizer_left_out(tmp_path, key):
    model = net(0)
    wrapped = {f"module._orig_mod.{name}": value for name, value in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters())
    content = {key: wrapped, "optimizer": optimizer.state_dict(), "step": torch.tensor(3)}
    found = chosen(tmp_path, content)
    assert list(found.tensors) == list(model.state_dict())
    assert f"took {key}" in " ".join(found.notes)
    assert "left out step" in " ".join(found.notes)


@pytest.mark.parametrize(
    "wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]
)
def test_wrappers_within_a_model_leave_its_names(tmp_path, wrapper):
    names = {f"conv.{wrapper}.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}
    assert list(chosen(tmp_path, names).tensors) == ["conv.weight", "fc.bias"]


def test_the_counter_of_averaged_models_keeps_no_prefix(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(net(3))
    found = chosen(tmp_path, averaged.state_dict())
    assert list(found.tensors) == list(net(3).state_dict())
    assert any("n_averaged" in note for note in found.notes)


def test_a_model_with_a_part_called_module_keeps_its_names(tmp_path):
    names = ["module.weight", "scale"]
    assert list(chosen(tmp_path, {n: torch.ones(2) for n in names}).tensors) == names


def test_names_that_meet_without_their_wrappers_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds 'a\.weight' twice"):
        chosen(tmp_path, {"a.weight": torch.ones(2), "a._orig_mod.weight": torch.ones(2)})


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"model": A, "head": {"bias": torch.ones(3)}}, ["model.weight", "head.bias"]),
        ({"w": torch.ones(1), "encoder": A}, ["w", "encoder.weight"]),
        ({"G": A, "D": B, "optG": {"state": {}, "param_groups": []}}, ["G.weight", "D.weight"]),
        ({"model": {"encoder": {"layer": A}}, "args": None}, ["encoder.layer.weight"]),
        ({"model": A, "loss": torch.tensor(1.0)}, ["weight"]),
        ({"state": {"model": A, "optimizers": {"x": torch.ones(3)}}}, ["weight"]),
        ({"model": A, "ema": B}, ["weight"]),
        ({"ema": A}, ["weight"]),
        ({"params": [torch.ones(2), torch.ones(3)]}, ["0", "1"]),
    ],
)
def test_no_part_of_a_model_is_lost(tmp_path, content, names):
    assert list(chosen(tmp_path, content).tensors) == names


def test_of_several_copies_the_one_asked_for_is_taken_and_the_other_named(tmp_path):
    content = {"model": A, "model_ema": B, "epoch": 3}
    found = chosen(tmp_path, content)
    assert torch.equal(read(found.tensors["weight"]), A["weight"])
    assert any("left out model_ema" in note and "--weights" in note for note in found.notes)
    for name in ("ema", "model_ema", "MODEL_EMA"):
        assert torch.equal(
            read(chosen(tmp_path, content, weights=name).tensors["weight"]), B["weight"]
        )
    with pytest.raises(
        DataError, match=r"--weights swa: a\.pt has none of that name; it has model"
    ):
        chosen(tmp_path, content, weights="swa")


def test_a_key_says_where_the_weights_are(tmp_path):
    content = {"outer": {"G": A, "D": B}}
    found = chosen(tmp_path, content, key="outer.D")
    assert torch.equal(read(found.tensors["weight"]), B["weight"])
    with pytest.raises(DataError, match=r"--key outer\.X: a\.pt holds no 'X' there; it holds G, D"):
        chosen(tmp_path, content, key="outer.X")
    with pytest.raises(DataError, match="that is no dict of tensors"):
        chosen(tmp_path, content, key="outer.G.weight")


def test_what_holds_no_tensor_is_named(tmp_path):
    found = chosen(tmp_path, {"weight": torch.ones(2), "fc._extra_state": None})
    assert found.notes == ["left out fc._extra_state: no tensor"]


@pytest.mark.parametrize("name", ["_flat_param", "layer._fsdp_wrapped_module.flat_param_0"])
def test_flat_parameters_of_fsdp_are_refused(tmp_path, name):
    with pytest.raises(DataError, match="flat parameter"):
        chosen(tmp_path, {name: torch.ones(4)})


def test_ties_that_stand_in_the_metadata_alone_are_kept(tmp_path):
    (tmp_path / "old").mkdir()
    torch.save(state(0, tied=True), tmp_path / "old" / "step_0.pt")
    save_model(net(100, tied=True), tmp_path / "old" / "step_100.safetensors")
    layout = layout_of(read_safetensors_names(tmp_path / "old" / "step_100.safetensors"))
    assert {row.name: row.aliases for row in layout.tensors if row.aliases}
    import_checkpoints(tmp_path / "old", tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert run.layout["embed.weight"].aliases == ("fc.weight",)
    for step in (0, 100):
        expected, found = state(step, tied=True), run.state_dict(step)
        assert found.keys() == expected.keys()
        assert all(same_bits(found[name], value) for name, value in expected.items())
        net(1, tied=True).load_state_dict(found, strict=True)


def read_safetensors_names(path):
    return choose_weights(read_safetensors(path), str(path)).tensors


def test_a_second_model_in_a_folder_is_taken_when_asked_for(tmp_path):
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    save_file(A, folder / "model.safetensors")
    save_file(B, folder / "model_1.safetensors")
    done = import_checkpoints(tmp_path, tmp_path / "run" / "a")
    assert any("left out model_1.safetensors (--weights model_1" in note for note in done.notes)
    choice = Choice(weights="model_1", pattern="checkpoint-*")
    import_checkpoints(tmp_path, tmp_path / "run" / "b", choice=choice)
    assert torch.equal(open_run(tmp_path / "run" / "b").state_dict(5)["weight"], B["weight"])
