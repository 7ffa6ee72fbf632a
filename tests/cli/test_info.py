from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.cli.commands import ckptlab


def test_json_facts_equal_what_lies_on_disk(small_run: Path) -> None:
    facts = json.loads(ckptlab("info", small_run, "--json").stdout)
    shards = [p for p in (small_run / "weights" / "c").rglob("*") if p.is_file()]
    everything = [p for p in small_run.rglob("*") if p.is_file()]
    parameters = 64 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10
    assert facts["parameters"] == parameters
    assert facts["steps"] == 41
    assert facts["tensors"] == 6
    assert facts["raw_bytes"] == 4 * parameters * 41
    assert facts["stored_bytes"] == sum(p.stat().st_size for p in shards)
    assert facts["ratio"] == facts["raw_bytes"] / facts["stored_bytes"]
    assert facts["total_stored_bytes"] == sum(p.stat().st_size for p in everything)
    assert (facts["codec"], facts["block"], facts["state"]) == ("dense", 32, "complete")


def test_table_names_the_run(small_run: Path) -> None:
    done = ckptlab("info", small_run)
    assert done.returncode == 0
    assert "complete" in done.stdout
    assert "mlp" in done.stdout


def test_no_run_is_one_line(tmp_path: Path) -> None:
    done = ckptlab("info", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_unknown_command_suggests_the_nearest() -> None:
    done = ckptlab("inf")
    assert done.returncode == 2
    assert "'info'" in done.stderr


def test_reading_imports_no_torch(small_run: Path) -> None:
    code = (
        "import sys, ckptlab\n"
        f"run = ckptlab.open_run({str(small_run)!r})\n"
        "run.dataset; run.snapshot(3); run.analyze('sign-flips'); repr(run)\n"
        "from ckptlab.cli import _run\n"
        f"assert _run(['info', {str(small_run)!r}], False) == 0\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
