"""Every layout that people have on disk, made by the library that writes it or as it writes it."""

import argparse
import json

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn

from ckptlab.record.convert.find_checkpoints import Choice
from ckptlab.record.convert.import_checkpoints import import_checkpoints
from ckptlab.run import open_run


class Net(nn.Module):
    """A model with a tied head, a buffer of its own type and names in an order of their own."""

    def __init__(self, *, tied=False):
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.conv = nn.Conv2d(1, 2, 3)
        self.bn = nn.BatchNorm2d(2)
        self.fc = nn.Linear(4, 11, bias=False)
        if tied:
            self.fc.weight = self.embed.weight


def net(seed, *, tied=False, dtype=torch.float32):
    torch.manual_seed(seed)
    return Net(tied=tied).to(dtype)


def state(seed, **options):
    return net(seed, **options).state_dict()


STEPS = (100, 200)


def plain(folder):
    for step in STEPS:
        torch.save(state(step), folder / f"step_{step}.pt")


def legacy(folder):
    for step in STEPS:
        path = folder / f"step_{step}.pth"
        torch.save(state(step), path, _use_new_zipfile_serialization=False)


def upper_case(folder):
    for step in STEPS:
        torch.save(state(step), folder / f"step_{step}.PT")


def numpy_arrays(folder):
    for step in STEPS:
        torch.save({n: v.numpy() for n, v in state(step).items()}, folder / f"step_{step}.pt")


def trainer(folder):
    for step in STEPS:
        path = folder / f"checkpoint-{step}"
        path.mkdir()
        save_file(state(step), path / "model.safetensors", {"format": "pt"})
        torch.save({"state": {}, "param_groups": []}, path / "optimizer.pt")
        torch.save({}, path / "scheduler.pt")
        (path / "training_args.bin").write_bytes(b"x")
        (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))


def accelerate(folder):
    for step, epoch in zip(STEPS, (1, 2), strict=True):
        path = folder / f"checkpoint-{step}-epoch-{epoch}"
        path.mkdir()
        save_file(state(step), path / "model.safetensors", {"format": "pt"})
        save_file({"head.weight": torch.ones(2, 2)}, path / "model_1.safetensors")
        (path / "random_states_0.pkl").write_bytes(b"x")


def shard(path, tensors, suffix, save):
    path.mkdir()
    names = list(tensors)
    half = len(names) // 2
    listed = {}
    for number, part in enumerate((names[:half], names[half:]), 1):
        file = f"{suffix[0]}-{number:05}-of-00002{suffix[1]}"
        save({name: tensors[name] for name in part}, path / file)
        listed |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": listed}
    (path / f"{suffix[0]}{suffix[1]}.index.json").write_text(json.dumps(index))


def sharded_safetensors(folder):
    for step in STEPS:
        shard(folder / f"step{step}", state(step), ("model", ".safetensors"), save_file)


def sharded_bin(folder):
    for step in STEPS:
        shard(folder / f"step{step}", state(step), ("pytorch_model", ".bin"), torch.save)


def pythia(folder):
    for step in STEPS:
        (folder / f"step{step}").mkdir()
        torch.save(state(step), folder / f"step{step}" / "pytorch_model.bin")


def olmo(folder):
    for step in STEPS:
        path = folder / f"stage1-step{step}-tokens{step // 100}B"
        path.mkdir()
        save_file(state(step), path / "model.safetensors")


def fineweb(folder):
    for step in STEPS:
        path = folder / f"step-{step:06}-{step // 100}BT"
        path.mkdir()
        save_file(state(step), path / "model.safetensors")


def lightning(folder):
    for epoch, step in enumerate(STEPS):
        model = net(step)
        optimizer = torch.optim.Adam(model.parameters())
        content = {
            "epoch": epoch,
            "global_step": step,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": model.state_dict(),
            "loops": {},
            "callbacks": {},
            "optimizer_states": [optimizer.state_dict()],
            "lr_schedulers": [],
            "hyper_parameters": argparse.Namespace(lr=0.1),
        }
        torch.save(content, folder / f"epoch={epoch}-step={step}.ckpt")
    torch.save(content, folder / "last.ckpt")


def timm(folder):
    for step in STEPS:
        content = {
            "epoch": step,
            "arch": "net",
            "state_dict": state(step),
            "state_dict_ema": state(step + 7),
            "optimizer": {},
            "args": argparse.Namespace(lr=0.1),
            "metric": np.float64(1),
        }
        torch.save(content, folder / f"checkpoint-{step}.pth.tar")
    torch.save(content, folder / "model_best.pth.tar")
    torch.save(content, folder / "last.pth.tar")


def open_lth(folder):
    for epoch in (1, 2):
        torch.save(state(epoch * 100), folder / f"model_ep{epoch}_it0.pth")
    torch.save({"conv.weight": torch.ones(2, 1, 3, 3)}, folder / "mask.pth")
    torch.save({"ep": 1}, folder / "checkpoint.pth")


def composer(folder):
    for step in STEPS:
        inner = {
            "model": state(step),
            "optimizers": {"Adam": {"state": {}, "param_groups": []}},
            "timestamp": {"Timestamp": {"epoch": {"value": 0}, "batch": {"value": step}}},
        }
        content = {"state": inner, "rng": [{"torch": torch.zeros(3, dtype=torch.uint8)}]}
        torch.save(content, folder / f"ep0-ba{step}-rank0.pt")


@pytest.mark.filterwarnings("ignore::UserWarning")
def distributed(folder):
    for step in STEPS:
        content = {"model": state(step), "step": step}
        dcp.save(content, checkpoint_id=str(folder / f"step-{step}"), no_dist=True)


def deepspeed(folder):
    for step in STEPS:
        path = folder / f"global_step{step}"
        path.mkdir()
        content = {"module": state(step), "optimizer": None, "global_steps": step, "ds_config": {}}
        torch.save(content, path / "mp_rank_00_model_states.pt")
        torch.save({"optimizer_state_dict": {}}, path / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    (folder / "latest").write_text("global_step200")


def nested(tensors):
    tree: dict = {}
    for name, value in tensors.items():
        node, (*path, leaf) = tree, name.split(".")
        for key in path:
            node = node.setdefault(key, {})
        node[leaf] = value
    return tree


def megatron(folder):
    for step in STEPS:
        path = folder / f"iter_{step:07}" / "mp_rank_00"
        path.mkdir(parents=True)
        content = {
            "args": argparse.Namespace(a=1),
            "checkpoint_version": 3.0,
            "iteration": step,
            "model": nested(state(step)),
        }
        torch.save(content, path / "model_optim_rng.pt")
    (folder / "latest_checkpointed_iteration.txt").write_text("200")


def adapter(folder):
    for step in STEPS:
        path = folder / f"checkpoint-{step}"
        path.mkdir()
        save_file(state(step), path / "adapter_model.safetensors")
        (path / "adapter_config.json").write_text("{}")


def mixed(folder):
    plain(folder)
    for name in ("best", "last", "ema"):
        torch.save(state(7), folder / f"{name}.pt")
    (folder / "newest.pt").symlink_to("step_200.pt")
    torch.save(state(1), folder / "._step_100.pt")
    (folder / "log.txt").write_text("")


def wrapped(folder):
    for step in STEPS:
        names = {f"module._orig_mod.{name}": value for name, value in state(step).items()}
        torch.save(names, folder / f"step_{step}.pt")


LAYOUTS = {
    "`step_100.pt`, `.pth`": plain,
    "files before torch 1.6": legacy,
    "`.PT`": upper_case,
    "NumPy arrays in `.pt`": numpy_arrays,
    "HF Trainer: `checkpoint-100/model.safetensors`": trainer,
    "Accelerate: `checkpoint-100-epoch-1/`, several models": accelerate,
    "sharded: `model-00001-of-00002.safetensors` and index": sharded_safetensors,
    "sharded: `pytorch_model-00001-of-00002.bin` and index": sharded_bin,
    "Pythia: `step100/pytorch_model.bin`": pythia,
    "OLMo: `stage1-step100-tokens1B/`": olmo,
    "FineWeb: `step-000100-1BT/`": fineweb,
    "Lightning: `epoch=0-step=100.ckpt`, `last.ckpt`": lightning,
    "timm: `checkpoint-100.pth.tar`": timm,
    "open_lth: `model_ep1_it0.pth`, with `--steps-per-epoch`": open_lth,
    "Composer: `ep0-ba100-rank0.pt`": composer,
    "torch DCP, torchtitan, FSDP: `step-100/.metadata`": distributed,
    "DeepSpeed ZeRO 1, 2: `global_step100/mp_rank_00_model_states.pt`": deepspeed,
    "Megatron: `iter_0000100/mp_rank_00/model_optim_rng.pt`": megatron,
    "PEFT: `checkpoint-100/adapter_model.safetensors`": adapter,
    "with `best.pt`, links and `._*` beside": mixed,
    "DDP and torch.compile around the model": wrapped,
}


ARRAYS = "load it there and save the arrays with safetensors, one file a step"

FOREIGN = {
    "01.weights.h5": ("a Keras checkpoint", ARRAYS),
    "model.keras": ("a Keras checkpoint", ARRAYS),
    "checkpoint_100": ("a Flax msgpack checkpoint", ARRAYS),
    "flax_model.msgpack": ("a Flax msgpack checkpoint", ARRAYS),
    "ckpt-1.index": ("a TensorFlow checkpoint", ARRAYS),
    "100/manifest.ocdbt": ("an Orbax checkpoint of JAX", ARRAYS),
    "100/default/manifest.ocdbt": ("an Orbax checkpoint of JAX", ARRAYS),
    "100/_CHECKPOINT_METADATA": ("an Orbax checkpoint of JAX", ARRAYS),
    "step_1.npz": ("a NumPy archive", "save the arrays with safetensors.numpy.save_file"),
    "step1.gguf": ("a llama.cpp model", "take the safetensors it was made from"),
    "step1.onnx": ("an ONNX model", "take the torch checkpoint it was made from"),
    "steps.tar.gz": ("a packed archive", "unpack it first"),
    "step1.pkl": ("a plain pickle", "load it where you trust it and torch.save the tensors"),
}
"""What is not torch's, by a file in it: what it is called, and what the user is told to do."""


def same_bits(a, b):
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return a.dtype == b.dtype and torch.equal(a.view(whole), b.view(whole))


def require_exact(path, expected):
    """Compare every step of a run with states, bit by bit, and load each into a model."""
    run = open_run(path)
    assert run.steps.tolist() == list(expected)
    for step, states in expected.items():
        found = run.state_dict(step)
        assert found.keys() == states.keys()
        assert all(same_bits(found[name], value) for name, value in states.items())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_imported_exactly(tmp_path, layout):
    (tmp_path / "old").mkdir()
    LAYOUTS[layout](tmp_path / "old")
    choice = Choice(steps_per_epoch=100 if layout.startswith("open_lth") else None)
    import_checkpoints(tmp_path / "old", tmp_path / "run", choice=choice, codec="fast")
    require_exact(tmp_path / "run", {step: state(step) for step in STEPS})
    net(0).load_state_dict(open_run(tmp_path / "run").state_dict(200), strict=True)
