from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ckptlab.errors import ConfigError
from ckptlab.store.read.reader import open_store
from ckptlab.train.config import load_config
from ckptlab.train.trainer import prepare
from tests.cli.commands import SMALL


def test_a_repacked_run_goes_on_as_it_would_have(tmp_path: Path, call) -> None:
    whole, parted = tmp_path / "whole.zarr", tmp_path / "parted.zarr"
    assert call("record", "-o", whole, *SMALL, "-S", "train.steps=60")[0] == 0
    fast = ["-S", "train.steps=40", "-S", "record.codec=fast"]
    assert call("record", "-o", parted, *SMALL, *fast)[0] == 0
    code, out, err = call("repack", parted)
    assert (code, err) == (0, "")
    assert out.startswith(f"{parted}: 41 steps, ")
    assert "(dense)" in out
    assert call("record", "--resume", parted, "-S", "train.steps=60")[0] == 0
    a, b = open_store(whole), open_store(parted)
    assert b.attributes["codec"] == "dense"
    assert np.array_equal(a.steps, b.steps)
    assert np.array_equal(a.small("digest"), b.small("digest"))


def test_a_copy_as_json_and_bad_input(small_run: Path, tmp_path: Path, call) -> None:
    copy = tmp_path / "copy.zarr"
    code, out, _ = call("repack", small_run, "-o", copy, "--codec", "fast", "--json")
    assert code == 0
    said = json.loads(out)
    assert (said["path"], said["codec"], said["steps"]) == (str(copy), "fast", 41)
    code, out, err = call("repack", small_run, "-o", copy)
    assert (code, out) == (2, "")
    assert "exists and holds a run" in err
    assert err.count("\n") == 1
    code, _, err = call("repack", small_run, "--codec", "zip")
    assert code == 2
    assert "Accepted: dense, fast" in err


def test_a_recording_repacks_itself_when_it_is_complete(tmp_path: Path, call) -> None:
    settings = ["-S", "train.steps=20", "-S", "record.codec=fast", "-S", "record.repack=true"]
    code, _, err = call("record", "-o", tmp_path / "run.zarr", *SMALL, *settings)
    assert code == 0, err
    assert open_store(tmp_path / "run.zarr").attributes["codec"] == "dense"
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.zarr"]
    config = load_config(overrides=["record.repack=true"])
    with pytest.raises(ConfigError, match="ckptlab repack -o"):
        prepare(config, "s3://bucket/run.zarr")
