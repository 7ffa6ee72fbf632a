"""Progress without a terminal: lines now and then, never a bar."""

from __future__ import annotations

import pytest

from ckptlab.cli import progress
from ckptlab.cli.progress import RecordProgress, human_seconds, step_progress
from ckptlab.train.config import load_config
from ckptlab.train.trainer import train


def test_a_line_is_printed_only_now_and_then(monkeypatch, capsys):
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with step_progress("repack") as show:
        for done in range(1, 9):
            show(done, 100)
    lines = capsys.readouterr().err.splitlines()
    # Seconds 0, 10, 20, …: from step 1 on, at 30 and at 60, a step takes 10 s.
    shown = ["repack: 3 of 100", "repack: 6 of 100", "repack: 8 of 100"]  # the last one, too
    assert [line.split(",")[0] for line in lines] == shown
    assert "16 min left" in lines[1] or "19 min left" in lines[1]


def test_nothing_is_printed_of_what_is_done_at_once(capsys):
    with step_progress("repack") as show:
        show(1, 1)
    assert capsys.readouterr().err == ""


def test_recording_tells_speed_and_loss_before_anything_is_stored(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    settings = ["model.name=mlp", "model.width=4", "train.steps=5", "train.threads=1"]
    with RecordProgress() as show:
        train(load_config(overrides=settings), str(tmp_path / "run.zarr"), on_progress=show)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("recording: ")
    assert all("step/s" in line and "loss" in line and "stall" in line for line in lines)
    assert not any("nan" in line for line in lines)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (150, "2 min"), (7500, "2 h 05 min")],
)
def test_durations_are_written_as_people_read_them(seconds, text):
    assert human_seconds(seconds) == text
