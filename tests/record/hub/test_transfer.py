from __future__ import annotations

import pytest

from ckptlab.errors import ConfigError, DataError, RunExistsError, StoreError
from ckptlab.record.hub.transfer import pull_run, push_run
from ckptlab.run import open_run
from tests.record.hub.server import serving
from tests.trained import points, record_own, tanh_network


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serving() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield served


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_a_run_goes_up_and_comes_back_as_it_was(hub, tmp_path):
    run = record_own(tmp_path / "run.zarr", tanh_network(), *points())
    page = push_run(run, "hf://datasets/lab/runs/first.zarr")
    assert page == f"{hub.endpoint}/datasets/lab/runs"
    assert pull_run("hf://datasets/lab/runs/first.zarr", tmp_path / "back.zarr").endswith(
        "back.zarr"
    )
    assert contents(tmp_path / "back.zarr") == contents(run)
    assert open_run(tmp_path / "back.zarr").steps.tolist() == open_run(run).steps.tolist()
    assert not [p for p in (tmp_path / "home" / "ckptlab").rglob("*") if p.is_file()]
    with pytest.raises(RunExistsError, match="--overwrite"):
        pull_run("hf://datasets/lab/runs/first.zarr", tmp_path / "back.zarr")
    with pytest.raises(
        DataError, match=r"holds no run; it has first\.zarr; give hf://OWNER/NAME/F"
    ):
        pull_run("hf://datasets/lab/runs", tmp_path / "other.zarr")


def test_a_branch_and_a_dropped_connection(hub, tmp_path):
    run = record_own(tmp_path / "run.zarr", tanh_network(), *points())
    push_run(run, "hf://lab/runs@seed1")
    files = hub.repositories["models", "lab/runs"]["seed1"]
    largest = max(files, key=lambda name: len(files[name]))
    hub.drop["seed1", largest] = len(files[largest]) // 2
    pull_run("hf://lab/runs@seed1", tmp_path / "back.zarr")
    assert contents(tmp_path / "back.zarr") == contents(run)
    assert not hub.repositories["models", "lab/runs"]["main"]


def test_what_cannot_be_moved_is_told(hub, tmp_path):
    with pytest.raises(StoreError):
        push_run(tmp_path / "none.zarr", "hf://lab/runs")
    with pytest.raises(DataError, match="hf://lab/none is not on"):
        pull_run("hf://lab/none", tmp_path / "a.zarr")
    hub.repositories["models", "lab/evil"] = {"main": {"zarr.json": b"{}", "../evil": b"x"}}
    with pytest.raises(DataError, match=r"holds a file '\.\./evil', which would lie elsewhere"):
        pull_run("hf://lab/evil", tmp_path / "a.zarr")
    with pytest.raises(ConfigError, match="is not local"):
        pull_run("hf://lab/none", "s3://bucket/a.zarr")
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".zarr"] == []
