from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from ckptlab.cli import main
from tests.cli.commands import SMALL, ckptlab


def one_line(done, code: int) -> str:
    """Check that a command failed as promised: one line, no traceback, nothing on stdout."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ")
    return lines[0]


def test_prints_the_path_and_records_every_step(small_run: Path) -> None:
    dataset = xr.open_zarr(small_run)
    assert dataset.step.values.tolist() == list(range(41))
    assert dataset.weights.dims == ("param", "step")
    assert {"tensor_index", "tensor", "step", "anchor", "eval_step"} <= set(dataset.coords)
    assert np.isnan(dataset.gradients.isel(step=0)).all()
    assert not np.isnan(dataset.loss.isel(step=slice(1, None))).any()


def test_resume_of_a_complete_run_is_a_no_op_and_can_extend_it(tmp_path: Path) -> None:
    short, long = tmp_path / "short.zarr", tmp_path / "long.zarr"
    assert ckptlab("record", "-o", short, *SMALL, "-S", "train.steps=20").returncode == 0
    before = {p: p.stat().st_mtime_ns for p in short.rglob("*") if p.is_file()}
    again = ckptlab("record", "--resume", short)
    assert (again.returncode, again.stdout.strip()) == (0, str(short))
    assert {p: p.stat().st_mtime_ns for p in short.rglob("*") if p.is_file()} == before
    assert ckptlab("record", "--resume", short, "-S", "train.steps=50").returncode == 0
    assert ckptlab("record", "-o", long, *SMALL, "-S", "train.steps=50").returncode == 0
    a, b = xr.open_zarr(short), xr.open_zarr(long)
    for name in ("weights", "loss", "lr", "gradient_norm", "digest"):
        np.testing.assert_array_equal(a[name].values, b[name].values)


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    done = ckptlab("record", "-o", path, *SMALL, "--dry-run", "--json")
    facts = json.loads(done.stdout)
    assert facts["parameters"] == sum((64 * 300 + 300, 300 * 100 + 100, 100 * 10 + 10))
    assert facts["recorded_steps"] == 501
    assert facts["raw_bytes"] == 4 * facts["parameters"] * 501
    assert {"device", "precision", "layout"} < facts["choices"].keys()
    assert all(choice["value"] and choice["why"] for choice in facts["choices"].values())
    assert not path.exists()


def test_whether_to_wait_for_the_disk(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for options, fsync in (([], True), (["--no-fsync"], False)):
        with pytest.raises(SystemExit) as left:
            main(["record", "-o", str(tmp_path / "x"), *SMALL, *options, "--dry-run", "--json"])
        assert left.value.code in (0, None)
        facts = json.loads(capfd.readouterr().out)
        assert facts["config"]["record"]["fsync"] is fsync
        assert facts["config"]["record"]["sync_seconds"] == 10


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-S", "train.stepz=3"], "train.steps"),
        (["-S", "trains.steps=3"], "train"),
        (["-S", "train.steps=many"], "train.steps"),
        (["-S", "train.batch_size=1.5"], "train.batch_size"),
        (["-S", "model.name=resnet19"], "resnet20"),
        (["-S", "model.name=lenett"], "lenet"),
        (["-S", "data.name=digit"], "digits"),
        (["-S", "record.codec=dens"], "dense"),
        (["-S", "record.steps=900:"], "500"),
        (["-S", "record.steps=9:3"], "9:3"),
        (["-S", "nonsense"], "section.key=value"),
        (["--preset", "resnet20-cifar"], "resnet20-cifar10"),
        (["--memory", "1KiB"], "record.memory"),
        (["missing.toml"], "missing.toml"),
        (["-S", "task.name=rotatoin"], "rotation"),
        (["-S", "task.factor=4"], "task.factor"),
        (["-S", "task.stages=[{name='rotation', steps='0:9'}]"], "task.stages[0].name"),
        (["-S", "task.stages=[{name='blur', steps='0:9:3'}]"], "task.stages[0].steps"),
        (["-S", "task.stages=[{name='blur', steps='900:'}]"], "task.stages[0].steps"),
        (
            ["-S", "task.stages=[{name='blur', steps='0:1ep'}, {name='blur', steps='9:'}]"],
            "task.stages[1].steps",
        ),
    ],
)
def test_bad_settings_are_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    path = tmp_path / "x.zarr"
    with pytest.raises(SystemExit) as stopped:
        main(["record", "-o", str(path), *arguments])
    captured = capfd.readouterr()
    assert stopped.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith("Error: ")
    assert len(captured.err.strip().splitlines()) == 1
    assert said in captured.err
    assert not path.exists()


def test_a_taken_path_is_refused_and_left_alone(tmp_path: Path, small_run: Path) -> None:
    assert "--overwrite" in one_line(ckptlab("record", "-o", small_run, *SMALL), 2)
    (tmp_path / "notes.txt").write_text("mine")
    assert "no run" in one_line(ckptlab("record", "-o", tmp_path, *SMALL), 2)
    message = one_line(ckptlab("record", "-o", tmp_path, *SMALL, "--overwrite"), 2)
    assert "not overwritten" in message
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_run_of_a_newer_format_is_called_one(tmp_path: Path, small_run: Path) -> None:
    path = tmp_path / "newer.zarr"
    shutil.copytree(small_run, path)
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"]["format"] = 2
    (path / "zarr.json").write_text(json.dumps(root))
    message = one_line(ckptlab("record", "-o", path, *SMALL), 2)
    assert "is of format 2" in message
    assert "no run" not in message


def test_resume_refuses_other_settings(small_run: Path) -> None:
    message = one_line(ckptlab("record", "--resume", small_run, "-S", "optim.lr=1"), 2)
    assert "optim.lr" in message
    message = one_line(ckptlab("record", "--resume", small_run, "-S", "train.steps=3"), 2)
    assert "shortened" in message
    assert "does not exist" in one_line(ckptlab("record", "--resume", "nowhere.zarr"), 2)


def test_image_folder_errors(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    data = ["-S", "data.name=imagefolder", "-S", f"data.root={tmp_path}"]
    message = one_line(ckptlab("record", "-o", tmp_path / "x.zarr", *data), 2)
    assert "test" in message


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run a command in this process; returns its exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    out = capfd.readouterr()
    return int(stopped.value.code or 0), out.out, out.err


def test_a_run_or_a_folder_given_as_a_config_file(
    tmp_path: Path, small_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capfd, "record", small_run)
    assert code == 2
    assert f"is a recorded run, not a config file; to go on with it: --resume {small_run}" in err
    code, _, err = run(capfd, "record", tmp_path)
    assert code == 2
    assert "is a folder, not a config file" in err


def test_a_download_that_fails_makes_no_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    # urllib keeps the proxies of its first request for good.
    monkeypatch.setattr("urllib.request._opener", None)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("mnist", "cifar10", "svhn"):
        root = ["-S", f"data.name={name}", "-S", "data.root=~/some/data"]
        code, _, err = run(capfd, "record", "-o", tmp_path / "x.zarr", *root)
        assert code == 2
        assert str(tmp_path / "some" / "data") in err
        assert not list(tmp_path.iterdir())


def test_ctrl_c_names_the_command_that_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.zarr"

    def interrupt(self: object, report: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    # A shell that starts the tests in the background has them ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr("ckptlab.train.trainer._REPORT_SECONDS", 0.0)
    monkeypatch.setattr("ckptlab.cli.progress.RecordProgress.__call__", interrupt)
    try:
        code, out, err = run(capfd, "record", "-o", path, *SMALL)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, out) == (130, "")
    assert err.strip().endswith(f"interrupted; go on with: ckptlab record --resume {path}")
    assert xr.open_zarr(path).attrs["state"] == "interrupted"
    monkeypatch.undo()
    assert run(capfd, "record", "--resume", path, "--no-fsync")[0] == 2
