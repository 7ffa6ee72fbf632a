from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model
from torch import nn

from ckptlab.errors import ConfigError, NoSpaceError, RunExistsError, WriteError
from ckptlab.record.convert.write_checkpoints import split_ties, write_checkpoint, write_folder


class Language(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.lm_head = nn.Linear(4, 11, bias=False)
            self.wte = nn.Embedding(11, 4)
            self.norm = nn.BatchNorm1d(4)
            self.half = nn.Linear(4, 4).bfloat16()
        self.lm_head.weight = self.wte.weight


def names_in(folder):
    return sorted(entry.name for entry in folder.iterdir())


def same(model, other):
    mine, theirs = model.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def test_a_pickle_keeps_every_name_and_what_is_tied(tmp_path):
    model, other = Language(), Language(1)
    write_checkpoint(model.state_dict(), tmp_path / "new" / "a.pt")
    found = torch.load(tmp_path / "new" / "a.pt", weights_only=True)
    other.load_state_dict(found, strict=True)
    same(other, model)
    assert found["lm_head.weight"].data_ptr() == found["wte.weight"].data_ptr()
    assert names_in(tmp_path / "new") == ["a.pt"]


def test_safetensors_hold_tied_tensors_once_and_load_strictly(tmp_path):
    model, other = Language(), Language(1)
    write_checkpoint(model.state_dict(), tmp_path / "a.safetensors")
    load_model(other, tmp_path / "a.safetensors", strict=True)
    same(other, model)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        # The embedding keeps its name: that is the one transformers look for.
        assert file.metadata() == {"format": "pt", "lm_head.weight": "wte.weight"}
    untied = {"a": torch.ones(2), "b": torch.ones(2)}
    assert split_ties(untied) == (untied, {})


@pytest.mark.parametrize("size", [1, 100, 200, 10**6])
def test_shards_hold_no_more_than_they_may_and_load(tmp_path, size):
    model, other = Language(), Language(1)
    write_folder(model.state_dict(), tmp_path / "out", shard_bytes=size)
    said = huggingface_hub.load_torch_model(other, tmp_path / "out", strict=False)
    # Filled through the embedding that it is tied to.
    assert (said.missing_keys, said.unexpected_keys) == (["lm_head.weight"], [])
    same(other, model)
    listed = tmp_path / "out" / "model.safetensors.index.json"
    parts = sorted((tmp_path / "out").glob("*.safetensors"))
    assert listed.exists() == (len(parts) > 1) == (size < 10**6)
    held = {part.name: load_file(part) for part in parts}
    for tensors in held.values():
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= size
    if listed.exists():
        index = json.loads(listed.read_text())
        assert index["weight_map"] == {name: part for part in held for name in held[part]}
        total = sum(t.nbytes for tensors in held.values() for t in tensors.values())
        assert index["metadata"] == {"total_size": total}


def test_views_of_one_tensor_are_written_each(tmp_path):
    whole = torch.arange(12.0)
    state = {"a": whole[:4], "b": whole[2:8].reshape(2, 3), "c": whole[::2]}
    write_checkpoint(state, tmp_path / "a.safetensors")
    found = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_config_and_tokenizer_come_from_a_folder_like_it(tmp_path):
    like = tmp_path / "like"
    like.mkdir()
    copied = {"config.json", "tokenizer.json", "vocab.txt", "merges.txt", "spiece.model"}
    left = {"trainer_state.json", "all_results.json", "optimizer.pt", "run.py"}
    for name in copied | left:
        (like / name).write_text(name)
    write_folder(Language().state_dict(), tmp_path / "out", like=like)
    files = {entry.name: entry for entry in (tmp_path / "out").iterdir()}
    assert files.keys() == copied | {"model.safetensors"}
    assert all(files[name].read_text() == name for name in copied)
    (like / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"like holds no config\.json; give a folder"):
        write_folder(Language().state_dict(), tmp_path / "other", like=like)
    assert not (tmp_path / "other").exists()


def test_nothing_but_an_export_is_replaced(tmp_path):
    state = Language().state_dict()
    for name in ("a.pt", "a.safetensors"):
        write_checkpoint(state, tmp_path / name)
        with pytest.raises(RunExistsError, match="--overwrite"):
            write_checkpoint(state, tmp_path / name)
        write_checkpoint(state, tmp_path / name, overwrite=True)
    out = tmp_path / "out"
    write_folder(state, out, shard_bytes=1)
    with pytest.raises(RunExistsError, match="out exists; give another name, or --overwrite"):
        write_folder(state, out)
    write_folder(state, out, overwrite=True)
    assert names_in(out) == ["model.safetensors"]
    (out / "thesis.tex").write_text("")
    with pytest.raises(RunExistsError, match="holds other files than an export"):
        write_folder(state, out, overwrite=True)
    assert names_in(out) == ["model.safetensors", "thesis.tex"]


def test_checkpoints_that_cannot_be_written(tmp_path):
    state = Language().state_dict()
    with pytest.raises(ConfigError, match=r"out\.bin does not end in \.safetensors, \.pt, \.pth"):
        write_checkpoint(state, tmp_path / "out.bin")
    (tmp_path / "file").write_text("")
    for write, name in ((write_checkpoint, "out.pt"), (write_folder, "out")):
        with pytest.raises(WriteError, match="cannot be written"):
            write(state, tmp_path / "file" / name)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named(tmp_path, monkeypatch):
    from ckptlab.record.convert import write_checkpoints

    def full(*_):
        Path("/dev/full").write_text("x" * 10**6)

    monkeypatch.setattr(write_checkpoints.torch, "save", full)
    with pytest.raises(NoSpaceError, match="No space left on device; make space"):
        write_checkpoint(Language().state_dict(), tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_another_model_is_refused(tmp_path):
    state = Language().state_dict()
    write_folder(state, tmp_path / "like")
    (tmp_path / "like" / "config.json").write_text("{}")
    write_folder(state, tmp_path / "out", like=tmp_path / "like")
    for name, tensor in (("norm.weight", torch.ones(5)), ("transformer.wpe", torch.ones(2))):
        with pytest.raises(ConfigError, match=rf"another model: tensor '{name}' is .* there"):
            write_folder({**state, name: tensor}, tmp_path / "b", like=tmp_path / "like")
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_transformers_load_what_is_exported(tmp_path):
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

    size = {"n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 13, "n_positions": 6}
    model = GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0))
    model.save_pretrained(tmp_path / "like")
    write_folder(model.state_dict(), tmp_path / "out", like=tmp_path / "like", shard_bytes=2000)
    found, said = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(said.values())
    same(found, model)
