"""Files made to run code, to fill memory or to lead elsewhere: one line, nothing run or written."""

import argparse
import io
import json
import os
import pickle
import struct
import zipfile

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

from ckptlab.errors import DataError
from ckptlab.record.convert.import_checkpoints import import_checkpoints
from ckptlab.record.convert.readers.dcp import _Unpickler
from ckptlab.record.convert.readers.pickles import read_torch_file
from tests.record.convert.test_layouts import (
    deepspeed,
    distributed,
    lightning,
    megatron,
    sharded_bin,
    state,
    timm,
)

ONE = {"weight": torch.ones(3, 2)}


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def refused(tmp_path):
    before = sorted(map(str, tmp_path.rglob("*")))
    with pytest.raises(DataError) as error:
        import_checkpoints(tmp_path / "old", tmp_path / "run")
    assert "\n" not in str(error.value)
    assert sorted(map(str, tmp_path.rglob("*"))) == before
    return str(error.value)


PICKLES = {
    "plain": (None, "step_{}.pt"),
    "legacy": (None, "step_{}.pth"),
    "lightning": (lightning, "epoch=0-step={}.ckpt"),
    "timm": (timm, "checkpoint-{}.pth.tar"),
    "sharded": (sharded_bin, "step{}/pytorch_model-00001-of-00002.bin"),
    "deepspeed": (deepspeed, "global_step{}/mp_rank_00_model_states.pt"),
    "megatron": (megatron, "iter_0000{}/mp_rank_00/model_optim_rng.pt"),
}


@pytest.mark.parametrize("layout", PICKLES)
def test_code_in_a_pickle_is_not_run(tmp_path, layout):
    make, name = PICKLES[layout]
    (tmp_path / "old").mkdir()
    if make is not None:
        make(tmp_path / "old")
    path = tmp_path / "old" / name.format(100)
    content = {**state(100), "x": Evil(str(tmp_path / "owned"))}
    torch.save(content, path, _use_new_zipfile_serialization=layout != "legacy")
    assert "code would have to be run" in refused(tmp_path)
    path.write_bytes(pickle.dumps(Evil(str(tmp_path / "owned"))))
    assert path.name in refused(tmp_path)


def test_settings_become_stand_ins_and_their_code_is_not_run(tmp_path):
    class Sneaky(argparse.Namespace):
        def __reduce__(self):
            return argparse.Namespace, (), {"lr": 1}

    torch.save({"model": ONE, "args": Sneaky()}, tmp_path / "a.pt")
    args = read_torch_file(tmp_path / "a.pt").tree["args"]
    assert not isinstance(args, argparse.Namespace)
    assert vars(args) == {}


@pytest.mark.parametrize(
    "evil",
    [Evil("owned"), print, os.system, torch.load, pickle.loads, getattr, eval, type, super],
    ids=lambda evil: getattr(evil, "__name__", "object"),  # no address: workers must agree
)
def test_the_metadata_of_dcp_names_no_code(tmp_path, monkeypatch, evil):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    distributed(tmp_path / "old")
    (tmp_path / "old" / "step-100" / ".metadata").write_bytes(pickle.dumps({"a": evil}))
    assert "whose code would have to be run" in refused(tmp_path)


def test_classes_in_the_metadata_of_dcp_are_not_touched():
    """A pickle may set attributes of what it names: those are stand-ins of one reading each."""
    from torch.distributed.checkpoint.metadata import Metadata

    setter = b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\nN}U\x05ownedK\x01s\x86b."
    with pytest.raises(TypeError):
        _Unpickler(io.BytesIO(setter)).load()
    assert not hasattr(Metadata, "owned")
    found = _Unpickler(io.BytesIO(pickle.dumps(Metadata({"a": 1})))).load()
    assert not isinstance(found, Metadata)
    assert found.state_dict_metadata == {"a": 1}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "link"])
def test_dcp_reads_no_file_outside_its_folder(tmp_path, name):
    folder = tmp_path / "old" / "step-1"
    dcp.save({"model": ONE}, checkpoint_id=str(folder), no_dist=True)
    (tmp_path / "old" / "secret").write_bytes((folder / "__0_0.distcp").read_bytes())
    (folder / "link").symlink_to(tmp_path / "old" / "secret")
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    for info in metadata.storage_data.values():
        info.relative_path = name
    path.write_bytes(pickle.dumps(metadata))
    assert "outside of it" in refused(tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda info: setattr(info, "offset", -1), "shorter than"),
        (lambda info: setattr(info, "length", 10**15), "shorter than"),
        (lambda info: setattr(info, "length", 10), "is damaged at 'model.weight'"),
        (lambda info: setattr(info, "offset", "x"), "is damaged"),
    ],
)
def test_places_of_dcp_that_are_not_there(tmp_path, change, said):
    folder = tmp_path / "old" / "step-1"
    dcp.save({"model": ONE}, checkpoint_id=str(folder), no_dist=True)
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    for info in metadata.storage_data.values():
        change(info)
    path.write_bytes(pickle.dumps(metadata))
    assert said in refused(tmp_path)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "link.safetensors"])
def test_an_index_reads_no_file_outside_its_folder(tmp_path, name):
    folder = tmp_path / "old" / "step1"
    folder.mkdir(parents=True)
    save_file(ONE, tmp_path / "secret.safetensors")
    (folder / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    index = {"weight_map": {"weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lies outside of it" in refused(tmp_path)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("{", "is damaged"),
        ("[]", "no JSON object"),
        ("{}", "no weight_map"),
        ('{"weight_map": {"a": 1}}', "no weight_map"),
        ('{"weight_map": {"b": "model-00001-of-00002.safetensors"}}', "lacks 'b'"),
        ("[" * 100_000, "is damaged"),
    ],
)
def test_an_index_that_is_damaged(tmp_path, index, said):
    folder = tmp_path / "old" / "step1"
    folder.mkdir(parents=True)
    save_file(ONE, folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(index)
    assert said in refused(tmp_path)


def header(content, data=b"\0" * 24):
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + data


def row(start, stop, shape=(3, 2)):
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 10**9) + b"{}",
        header({"a": row(0, 24), "b": row(0, 24)}),
        header({"a": row(0, 2**40, [2**38])}),
        header({"a": row(-4, 20)}),
        header({"a": row(0, 24, [2**31, 2**31])}),
        header({"a": row(0, 24)}, b"\0" * 12),
        b"",
        b"\xff" * 64,
    ],
)
def test_hostile_headers_of_safetensors(tmp_path, data):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "step_1.safetensors").write_bytes(data)
    assert "step_1.safetensors" in refused(tmp_path)


def test_zip_bombs_are_not_unpacked(tmp_path):
    (tmp_path / "old").mkdir()
    plain, bomb = tmp_path / "plain.pt", tmp_path / "old" / "step_1.pt"
    torch.save({"weight": torch.zeros(2**20)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as out:
        for entry in source.infolist():
            out.writestr(entry.filename, source.read(entry))
    plain.unlink()
    assert bomb.stat().st_size < 2**16
    assert "compressed zip" in refused(tmp_path)


def test_a_pickle_that_claims_more_than_the_file_holds(tmp_path):
    """The stored record is shorter than the tensor that the pickle describes."""
    (tmp_path / "old").mkdir()
    path = tmp_path / "old" / "step_1.pt"
    torch.save({"weight": torch.zeros(64)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as source, zipfile.ZipFile(path, "w") as out:
        for entry in source.infolist():
            data = source.read(entry)
            out.writestr(entry.filename, data[:16] if entry.filename.endswith("/data/0") else data)
    (tmp_path / "plain.pt").unlink()
    assert "step_1.pt is damaged" in refused(tmp_path)


def test_a_dict_that_holds_itself(tmp_path):
    loop: dict = {}
    loop["model"] = loop
    (tmp_path / "old").mkdir()
    torch.save(loop, tmp_path / "old" / "step_1.pt")
    assert "holds no tensors" in refused(tmp_path)
