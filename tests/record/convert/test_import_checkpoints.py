"""Series are imported exactly, bounded in memory, and go on where they stopped."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import ckptlab
from ckptlab.errors import ConfigError, DataError, NoSpaceError
from ckptlab.record.convert.estimate_import import estimate_import
from ckptlab.record.convert.find_checkpoints import find_checkpoints
from ckptlab.record.convert.import_checkpoints import import_checkpoints, import_series
from ckptlab.record.convert.infer_layout import layout_of
from ckptlab.record.convert.readers import pickles
from ckptlab.record.convert.readers.registry import READERS
from ckptlab.run import open_run
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format import zarr_metadata
from ckptlab.store.maintain.verify import verify
from ckptlab.store.write.target import is_free
from ckptlab.store.write.writer import StoreWriter
from tests.record.convert.test_layouts import net, require_exact, state
from tests.record.storages import FailingStorage


def save(folder, steps, *, dtype=torch.float32):
    folder.mkdir(exist_ok=True)
    for step in steps:
        save_file(state(step, dtype=dtype), folder / f"step_{step}.safetensors")


def folder_bytes(path):
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.relative_to(path).parts[0] in ("weights", "buffers", "step", "digest")
    }


def test_a_series_that_grows_equals_one_imported_at_once(tmp_path):
    for end in range(1, 8):
        save(tmp_path / "old", range(0, end * 10, 10))
        done = import_checkpoints(tmp_path / "old", tmp_path / "run", follow=True)
        assert (done.steps, done.new) == (end, 1)
    before = (tmp_path / "run" / "zarr.json").stat().st_mtime_ns
    again = import_checkpoints(tmp_path / "old", tmp_path / "run", follow=True)
    assert (again.steps, again.new) == (7, 0)
    assert (tmp_path / "run" / "zarr.json").stat().st_mtime_ns == before
    assert verify(tmp_path / "run", deep=True).ok
    require_exact(tmp_path / "run", {step: state(step) for step in range(0, 70, 10)})
    fresh = tmp_path / "fresh"
    import_checkpoints(tmp_path / "old", fresh, follow=True)
    assert folder_bytes(tmp_path / "run") == folder_bytes(fresh)


def test_what_cannot_be_added_is_told(tmp_path):
    save(tmp_path / "old", [10, 20])
    import_checkpoints(tmp_path / "old", tmp_path / "run", follow=True)
    save(tmp_path / "old", [15])
    done = import_checkpoints(tmp_path / "old", tmp_path / "run", follow=True)
    assert done.new == 0
    assert any("left out step 15" in note and "--overwrite" in note for note in done.notes)
    (tmp_path / "other").mkdir()
    save_file({"weight": torch.ones(2)}, tmp_path / "other" / "step_30.safetensors")
    with pytest.raises(DataError, match="all must be of one model"):
        import_checkpoints(tmp_path / "other", tmp_path / "run", follow=True)
    assert open_run(tmp_path / "run").steps.tolist() == [10, 20]
    assert verify(tmp_path / "run", deep=True).ok


def test_a_disk_that_fills_at_any_moment_keeps_what_was_imported(tmp_path):
    steps = (10, 20, 30, 40, 50)
    save(tmp_path / "old", steps)
    series = find_checkpoints(tmp_path / "old")
    options = {"source": "old", "codec": "fast", "memory": 3 * 2 * 4 * 118, "follow": True}
    import_series(series, tmp_path / "whole", **options)
    points, kept = 0, set()
    while True:
        path = tmp_path / f"run{points}"
        try:
            import_series(series, FailingStorage(path, points), **options)
            break
        except NoSpaceError as error:
            said = str(error)
        assert re.fullmatch(r"no space left to write .*", said), said
        free = is_free(open_storage(path))
        held = [] if free else open_run(path).steps.tolist()
        assert held == [*steps][: len(held)]
        kept.add(len(held))
        assert free or verify(path, deep=True).ok
        done = import_series(series, path, **options)
        # A reader goes by the view, which may be a block behind.
        assert (done.steps, done.new in (5 - len(held), max(3 - len(held), 0))) == (5, True)
        assert folder_bytes(path) == folder_bytes(tmp_path / "whole")
        points += 3
    assert points > 20
    assert kept >= {0, 2, 4}  # nothing, whole blocks


def test_a_recording_is_not_added_to(tmp_path):
    save(tmp_path / "old", [1])
    storage = open_storage(tmp_path / "run")
    StoreWriter.create(storage, layout_of(state(0)), block=1, codec="fast", attributes={}).finish(
        "complete"
    )
    with pytest.raises(DataError, match="was recorded, not imported"):
        import_checkpoints(tmp_path / "old", tmp_path / "run", follow=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_types_other_than_float32_keep_every_bit(tmp_path, dtype):
    save(tmp_path / "old", [0, 100], dtype=dtype)
    odd = state(200, dtype=dtype)
    odd["fc.weight"].view(-1)[:6] = torch.tensor(
        [torch.nan, -torch.nan, torch.inf, -0.0, 1e-7, 1e300]
    )
    save_file(odd, tmp_path / "old" / "step_200.safetensors")
    import_checkpoints(tmp_path / "old", tmp_path / "run")
    expected = {step: state(step, dtype=dtype) for step in (0, 100)}
    require_exact(tmp_path / "run", {**expected, 200: odd})
    run = open_run(tmp_path / "run")
    assert {t.dtype for t in run.layout.tensors} == {str(dtype)[6:]}
    assert run["fc.weight"].values[0] == pytest.approx(expected[0]["fc.weight"].float().numpy())
    net(0).to(dtype).load_state_dict(run.state_dict(0), strict=True)
    assert verify(tmp_path / "run", deep=True).ok


def test_bfloat16_is_stored_in_less_than_its_two_bytes(tmp_path):
    (tmp_path / "old").mkdir()
    torch.manual_seed(0)
    weight = torch.randn(256, 256)
    for step in range(8):
        weight += 1e-3 * torch.randn(256, 256)
        save_file({"w.weight": weight.bfloat16()}, tmp_path / "old" / f"s{step}.safetensors")
    raw = 8 * 2 * weight.numel()
    for codec in ("dense", "fast"):
        import_checkpoints(tmp_path / "old", tmp_path / codec, codec=codec)
        stored = sum(p.stat().st_size for p in (tmp_path / codec / "weights").rglob("c/*/*"))
        assert 0 < stored < raw, codec


def test_stretches_meet_within_tensors(tmp_path, monkeypatch):
    # Shards of 64 parameters, so that a small model has several and tensors lie across them.
    monkeypatch.setattr(zarr_metadata, "CHUNK_PARAMETERS", 16)
    monkeypatch.setattr(zarr_metadata, "SHARD_PARAMETERS", 64)
    save(tmp_path / "old", range(5))
    import_checkpoints(tmp_path / "old", tmp_path / "run", codec="fast")
    assert len([*(tmp_path / "run" / "weights" / "c").iterdir()]) > 1
    require_exact(tmp_path / "run", {step: state(step) for step in range(5)})
    assert verify(tmp_path / "run", deep=True).ok


def test_mapped_files_are_mapped_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "TOUCHED", 8)
    (tmp_path / "old").mkdir()
    for step in (1, 2):
        torch.save({"model": state(step)}, tmp_path / "old" / f"{step}.pt")
    import_checkpoints(tmp_path / "old", tmp_path / "run", codec="fast")
    require_exact(tmp_path / "run", {step: state(step) for step in (1, 2)})


def test_memory_sets_the_steps_of_a_block_and_too_little_is_told(tmp_path):
    save(tmp_path / "old", range(8))
    parameters = sum(t.numel() for n, t in state(0).items())
    import_checkpoints(tmp_path / "old", tmp_path / "run", memory=3 * 2 * 4 * parameters + 200)
    assert open_run(tmp_path / "run").attributes["block"] in (1, 2)
    with pytest.raises(ConfigError, match="is too little"):
        import_checkpoints(tmp_path / "old", tmp_path / "other", memory=64)
    assert not (tmp_path / "other").exists()


def test_an_estimate_tells_what_an_import_writes(tmp_path):
    save(tmp_path / "old", range(4), dtype=torch.bfloat16)
    found = estimate_import(find_checkpoints(tmp_path / "old"), codec="fast")
    assert found.steps == [0, 1, 2, 3]
    assert found.tensors["conv.weight"] == "bfloat16 [2, 1, 3, 3]"
    assert found.bytes_read == 4 * sum(t.nbytes for t in state(0, dtype=torch.bfloat16).values())
    assert found.bytes_stored > 0
    assert found.seconds > 0
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def test_readers_of_users_come_first(tmp_path):
    def read_npz(path):
        """Read NumPy archives."""
        with np.load(path) as archive:
            return {"net": dict(archive)}

    (tmp_path / "old").mkdir()
    for step in (3, 4):
        np.savez(
            tmp_path / "old" / f"step_{step}.npz", **{n: t.numpy() for n, t in state(step).items()}
        )
    try:
        assert ckptlab.reader("*.npz", name="mine-npz")(read_npz) is read_npz
        assert READERS["mine-npz"].summary == "Read NumPy archives."
        import_checkpoints(tmp_path / "old", tmp_path / "run")
        require_exact(tmp_path / "run", {step: state(step) for step in (3, 4)})
    finally:
        READERS._entries.pop("mine-npz")
        READERS._origins.pop("mine-npz")


def test_an_imported_run_says_what_it_was_made_of(tmp_path):
    save(tmp_path / "old", [1, 2])
    import_checkpoints(tmp_path / "old", tmp_path / "run")
    assert open_run(tmp_path / "run").attributes["imported"] == {"folder": "old", "files": 2}
    assert (
        json.loads((tmp_path / "run" / "zarr.json").read_text())["attributes"]["state"]
        == "complete"
    )
