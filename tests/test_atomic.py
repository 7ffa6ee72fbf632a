"""Files for users are there as a whole or not at all, whatever stops their writer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from ckptlab.atomic import written_aside

WRITER = """
import sys, time
from pathlib import Path
from ckptlab.atomic import written_aside
with written_aside(sys.argv[1]) as aside:
    if sys.argv[2] == "folder":
        aside.mkdir()
        (aside / "part").write_text("half")
    else:
        aside.write_text("half")
    print("half", flush=True)
    time.sleep(60)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_killed_writer_leaves_the_old_and_the_next_one_cleans_up(tmp_path, kind):
    target = tmp_path / "result.csv"
    if kind == "folder":
        target.mkdir()
        (target / "part").write_text("old")
    else:
        target.write_text("old")
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, target, kind], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "half\n"
    # While it writes, others leave its file alone.
    with written_aside(tmp_path / "other.csv") as aside:
        aside.write_text("other")
    assert len(names(tmp_path)) == 3
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    kept = target / "part" if kind == "folder" else target
    assert kept.read_text() == "old"
    with written_aside(target) as aside:
        if kind == "folder":
            aside.mkdir()
            (aside / "part").write_text("new")
        else:
            aside.write_text("new")
    assert kept.read_text() == "new"
    assert names(tmp_path) == ["other.csv", "result.csv"]


def test_an_error_leaves_the_old_and_nothing_else(tmp_path):
    target = tmp_path / "page.html"
    target.write_text("old")

    def fail():
        with written_aside(target) as aside:
            aside.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["page.html"]


def test_the_suffix_is_kept_since_writers_go_by_it(tmp_path):
    with written_aside(tmp_path / "a.b.svg") as aside:
        assert aside.suffix == ".svg"
        assert str(os.getpid()) in aside.name
        aside.touch()


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".nc", ".zarr", ".html", ".pt", "-r.html"])
def test_commands_write_their_files_aside(tiny_mlps, tmp_path, monkeypatch, ending):
    """The renaming fails in the end: nothing of the file is to be seen."""
    from click.testing import CliRunner

    from ckptlab.cli import cli

    out = tmp_path / f"out{ending}"
    command = ["analyze", "weight-distance", str(tiny_mlps[0])]
    commands = {
        ".html": [*command, "--plot", str(out)],
        ".pt": ["export", str(tiny_mlps[0]), "-o", str(out)],
        "-r.html": ["report", str(tiny_mlps[0]), "-o", str(out)],
    }

    def refuse(self, target):
        raise PermissionError(f"{target} is not written in place")

    monkeypatch.setattr("ckptlab.atomic.Path.replace", refuse)
    result = CliRunner().invoke(cli, commands.get(ending, [*command, "-o", str(out)]))
    assert "not written in place" in str(result.exception)
    assert names(tmp_path) == []
