"""Optimizers' states come along as anchors where they map to parameters; else a line says why."""

import os

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

from ckptlab.record.convert.import_checkpoints import import_checkpoints
from ckptlab.record.state.model_tensors import capture
from ckptlab.record.state.optimizer import restore_state
from ckptlab.run import open_run
from tests.record.convert.test_libraries import small_llama


def trained(seed=0, *, groups=False, named=False, dtype=torch.float32):
    """Return a model and an optimizer with a state, after an update."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 2))
    model.to(dtype)
    parameters = [*model.named_parameters()] if named else [*model.parameters()]
    if groups:
        parts = [[], []]
        for name, value in model.named_parameters():
            parts[name.startswith("1.") or name.endswith("bias")].append(value)
        parameters = [{"params": parts[0], "weight_decay": 0.1}, {"params": parts[1]}]
    optimizer = torch.optim.AdamW(parameters, lr=0.01)
    model(torch.randn(5, 3, dtype=dtype)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def require_restored(path, step, model, optimizer, fresh):
    """Restore a step's anchor into a fresh optimizer; compare it with the one that was saved."""
    anchor = open_run(path).stored.anchor(step)
    assert anchor is not None
    restore_state(fresh, capture(model), anchor)
    expected, found = optimizer.state_dict(), fresh.state_dict()
    assert found["param_groups"] == expected["param_groups"]
    assert found["state"].keys() == expected["state"].keys() != set()
    for key, state in expected["state"].items():
        assert all(torch.equal(found["state"][key][name], value) for name, value in state.items())


def require_states(path, step, model, optimizer):
    """Compare an anchor's vectors with the optimizer's, by the names of the parameters."""
    run = open_run(path)
    anchor = run.stored.anchor(step)
    for name, parameter in model.named_parameters():
        row = run.layout[name]
        found = torch.from_numpy(anchor.states["exp_avg"][row.stretch]).view(row.shape)
        assert torch.equal(found, optimizer.state[parameter]["exp_avg"]), name


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("key", ["optimizer", "optimizer_states"])
def test_the_state_is_that_of_the_last_step_of_a_block(tmp_path, groups, key):
    (tmp_path / "old").mkdir()
    for step in (1, 2):
        model, optimizer = trained(step, groups=groups)
        found = optimizer.state_dict()
        content = {"state_dict": model.state_dict(), key: [found] if key.endswith("s") else found}
        torch.save(content, tmp_path / "old" / f"step_{step}.pt")
    import_checkpoints(tmp_path / "old", tmp_path / "run")
    assert open_run(tmp_path / "run").stored.anchors.tolist() == [2]
    model_7, optimizer_7 = trained(7, groups=groups)
    require_restored(tmp_path / "run", 2, model_7, optimizer, optimizer_7)


def test_named_parameters_map_whatever_their_order(tmp_path):
    model, optimizer = trained(named=True)
    (tmp_path / "step_3").mkdir()
    save_file(model.state_dict(), tmp_path / "step_3" / "model.safetensors")
    torch.save(optimizer.state_dict(), tmp_path / "step_3" / "optimizer.pt")
    import_checkpoints(tmp_path, tmp_path / "run")
    require_states(tmp_path / "run", 3, model, optimizer)


def test_without_an_order_the_state_is_left_out_and_named(tmp_path):
    model, optimizer = trained()
    (tmp_path / "step_3").mkdir()
    save_file(model.state_dict(), tmp_path / "step_3" / "model.safetensors")
    torch.save(optimizer.state_dict(), tmp_path / "step_3" / "optimizer.pt")
    done = import_checkpoints(tmp_path, tmp_path / "run")
    assert "left out the optimizer: the files do not tell the order of the parameters" in done.notes
    assert not len(open_run(tmp_path / "run").stored.anchors)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s["param_groups"][0]["params"].pop(), "it has 7 parameters, the model 8"),
        (lambda s: s["state"][0].update(exp_avg=torch.ones(9)), "not of the parameters' shapes"),
        (lambda s: s["param_groups"].append(3), "no state_dict of torch's"),
    ],
)
def test_a_state_that_does_not_map_is_named(tmp_path, change, said):
    model, optimizer = trained()
    state = optimizer.state_dict()
    change(state)
    (tmp_path / "old").mkdir()
    content = {"model": model.state_dict(), "optimizer": state}
    torch.save(content, tmp_path / "old" / "step_1.pt")
    done = import_checkpoints(tmp_path / "old", tmp_path / "run")
    assert any(said in note for note in done.notes)
    assert open_run(tmp_path / "run").steps.tolist() == [1]


def test_transformers_tell_the_order_of_sorted_files(tmp_path):
    model = small_llama()
    decayed = [p for n, p in model.named_parameters() if "norm" not in n]
    others = [p for n, p in model.named_parameters() if "norm" in n]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    tokens = torch.arange(8)[None]
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    model.save_pretrained(tmp_path / "old" / "checkpoint-1")
    torch.save(optimizer.state_dict(), tmp_path / "old" / "checkpoint-1" / "optimizer.pt")
    import_checkpoints(tmp_path / "old", tmp_path / "run")
    require_states(tmp_path / "run", 1, model, optimizer)


class Evil:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (3,)


def rename(state, old, new):
    names = state["param_groups"][0]["params"]
    names[names.index(old)] = new
    state["state"][new] = state["state"].pop(old)


FORMS = {
    "numbered": lambda model, optimizer: optimizer.state_dict(),
    "named": lambda model, optimizer: get_optimizer_state_dict(model, optimizer),
    "joined": lambda model, optimizer: get_optimizer_state_dict(
        model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=True)
    ),
}


def save_distributed(folder, step, form, *, groups=False, dtype=torch.float32):
    """Save a checkpoint by torch's own writer, with the optimizer's state in a form of its own."""
    model, optimizer = trained(step, groups=groups, dtype=dtype)
    content = {"model": model.state_dict(), "optimizer": FORMS[form](model, optimizer)}
    dcp.save({**content, "step": step}, checkpoint_id=folder / f"step-{step}", no_dist=True)
    return optimizer


@pytest.mark.parametrize(("groups", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
@pytest.mark.parametrize("form", FORMS)
def test_dcp_brings_every_state_of_the_optimizer(tmp_path, form, groups, dtype):
    for step in (1, 2):
        optimizer = save_distributed(tmp_path / "old", step, form, groups=groups, dtype=dtype)
    done = import_checkpoints(tmp_path / "old", tmp_path / "run")
    assert done.notes == ["took model (in 2 checkpoints)"]
    assert open_run(tmp_path / "run").stored.anchors.tolist() == [2]
    model_7, optimizer_7 = trained(7, groups=groups, dtype=dtype)
    require_restored(tmp_path / "run", 2, model_7, optimizer, optimizer_7)


def test_dcp_of_accelerate_has_the_optimizer_in_a_folder_beside(tmp_path):
    model, optimizer = trained(3)
    state = {"optimizer": FORMS["named"](model, optimizer)}
    home = tmp_path / "old" / "checkpoint-3"
    dcp.save({"model": model.state_dict()}, checkpoint_id=home / "pytorch_model_fsdp_0")
    dcp.save(state, checkpoint_id=home / "optimizer_0")
    import_checkpoints(tmp_path / "old", tmp_path / "run")
    model_7, optimizer_7 = trained(7)
    require_restored(tmp_path / "run", 3, model_7, optimizer, optimizer_7)


def test_dcp_of_several_ranks_maps_by_names_only(tmp_path):
    for step, form in ((1, "numbered"), (2, "named")):
        optimizer = save_distributed(tmp_path / f"old{step}", step, form)
        home = tmp_path / f"old{step}" / f"step-{step}"
        (home / "__1_0.distcp").touch()  # as a second rank that holds nothing
        done = import_checkpoints(tmp_path / f"old{step}", tmp_path / f"run{step}")
        unmapped = "left out the optimizer: the files do not tell the order of the parameters"
        assert (unmapped in done.notes) == (form == "numbered")
    model_7, optimizer_7 = trained(7)
    require_restored(tmp_path / "run2", 2, model_7, optimizer, optimizer_7)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: rename(s, "0.bias", "x"), "it names the parameter 'x', which the model lacks"),
        (lambda s: s["state"]["0.bias"].update(exp_avg=torch.ones(9)), "not of the parameters' sh"),
        (lambda s: s["state"].update(x={"step": 1}), "no state_dict of torch's"),
        (lambda s: s["param_groups"][0].update(lr=Evil()), "whose code would have to be run"),
    ],
)
def test_a_state_in_dcp_that_does_not_map_is_named(tmp_path, change, said):
    model, optimizer = trained()
    state = FORMS["named"](model, optimizer)
    change(state)
    content = {"model": model.state_dict(), "optimizer": state}
    dcp.save(content, checkpoint_id=tmp_path / "old" / "step-1", no_dist=True)
    done = import_checkpoints(tmp_path / "old", tmp_path / "run")
    assert any(said in note for note in done.notes), done.notes
    assert open_run(tmp_path / "run").steps.tolist() == [1]
