import json
from pathlib import Path

import pytest

from ckptlab.errors import CorruptError
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.zarr_metadata import metadata_digest
from ckptlab.store.read import power_loss
from ckptlab.store.read.power_loss import (
    boot_id,
    surviving_lengths,
    synced_attribute,
    synced_lengths,
    unsynced_keys,
)
from ckptlab.store.read.reader import open_store
from ckptlab.store.read.root import read_root
from tests.store.samples import layout_of, trajectory, write_run

LENGTHS = {"step": 9, "anchor": 2, "eval_step": 1}


def test_the_boot_is_that_of_the_kernel():
    assert boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_lengths_come_back_and_count_until_the_next_boot(monkeypatch):
    assert synced_lengths({}) is None
    assert surviving_lengths({}) is None
    attributes = json.loads(json.dumps({"synced": synced_attribute(LENGTHS)}))
    assert synced_lengths(attributes) == LENGTHS
    assert surviving_lengths(attributes) is None
    for name in ("another", None):
        monkeypatch.setattr(power_loss, "boot_id", lambda name=name: name)
        assert surviving_lengths(attributes) == LENGTHS


@pytest.mark.parametrize(
    "value",
    [
        *(None, 3, "x", [], {}, {**LENGTHS, "step": -1}, {**LENGTHS, "step": "9"}),
        *({**LENGTHS, "step": True}, {**LENGTHS, "step": 22}, {**LENGTHS, "anchor": 10**6}),
    ],
)
def test_an_attribute_of_another_form_is_damage(tmp_path, value):
    write_run(tmp_path, trajectory(21, 11), layout_of(5, 6), evaluations=(3, 9))
    root = json.loads((tmp_path / "zarr.json").read_text())
    attributes = root["attributes"]
    attributes["synced"] = value
    metadata = root["consolidated_metadata"]["metadata"]
    attributes["metadata_digest"] = metadata_digest(attributes, metadata)
    (tmp_path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(CorruptError):
        open_store(tmp_path)


def test_files_to_sync_are_those_written_since(tmp_path):
    """Of 21 steps in blocks of 8, with 3 anchors, 10 steps and one anchor were synced."""
    write_run(tmp_path, trajectory(21, 11), layout_of(5, 6), evaluations=(3, 9))
    _, metadata = read_root(open_storage(tmp_path))
    lengths = {"step": 21, "anchor": 3, "eval_step": 2}
    keys = set(unsynced_keys(metadata, {"step": 10, "anchor": 1, "eval_step": 2}, lengths))
    existing = {key for key in keys if (tmp_path / key).exists()}
    large = {key for key in existing if key.startswith(("weights", "buffers", "optimizer"))}
    assert large == {
        *(f"{array}/c/0/{j}" for array in ("weights", "buffers", "buffers_int64") for j in (1, 2)),
        *(f"optimizer_{state}/c/0/{j}" for state in ("momentum", "state") for j in (1, 2)),
    }
    small = {"step", "loss", "digest", "gradient_norm", "anchor", "eval_step", "eval_loss"}
    assert small <= {key.split("/")[0] for key in existing}
    assert not {key for key in keys if key.startswith(("tensor/", "tensor_index/"))}
