from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ckptlab.cli import main
from ckptlab.store.read.reader import open_store


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_run, tmp_path / "run.zarr")


def call(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Run the command here; returns exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as left:
        main(["verify", *map(str, arguments)])
    captured = capfd.readouterr()
    return int(left.value.code or 0), captured.out, captured.err


def test_a_whole_run(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for options, what in (((), "checksums of"), (("--deep",), "checksums and digests of")):
        code, out, err = call(capfd, run, *options)
        assert (code, err) == (0, "")
        assert out.startswith(f"{run}: ok; complete, 41 steps (0..40), ")
        assert f"checked {what}" in out


def test_damage_is_named_by_array_steps_and_file(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = run / "gradients/c/0/0"
    file.write_bytes(b"!" + file.read_bytes()[1:])
    code, out, err = call(capfd, run)
    assert (code, err) == (1, "")
    assert "1 found wrong" in out
    assert "wrong: gradients, steps 0..31: gradients/c/0/0 is damaged" in out
    code, out, _ = call(capfd, run, "--json")
    document = json.loads(out)
    assert code == 1
    assert document["ok"] is False
    assert document["repair"] is None
    (finding,) = document["findings"]
    assert (finding["array"], finding["file"]) == ("gradients", "gradients/c/0/0")
    assert (finding["first_step"], finding["last_step"]) == (0, 31)


def test_repair_says_what_was_lost_and_the_run_can_be_resumed(
    run: Path, small_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (run / "weights/c/0/1").unlink()
    # As a writer leaves it that was killed.
    (run / "writer.lock").write_text('{"host": "here", "pid": 12}')
    code, out, err = call(capfd, run, "--repair")
    assert code == 0
    lock = f"{run}/writer.lock: took over the lock of process 12 on here, which is gone"
    assert err == f"Warning: {lock}\n"
    assert f"{run}: dropped 9 steps (32..40) with 1 anchors" in out
    assert f"kept in {run}.damaged-1" in out
    assert f"{run}: ok; interrupted, 32 steps (0..31)" in out
    assert Path(f"{run}.damaged-1").is_dir()
    with pytest.raises(SystemExit) as left:
        main(["record", "--resume", str(run)])
    assert left.value.code == 0
    mine, whole = open_store(run), open_store(small_run)
    assert mine.small("digest").tolist() == whole.small("digest").tolist()


def test_repair_as_json(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (run / "loss/c/0").write_bytes(b"torn")
    code, out, err = call(capfd, run, "--repair", "--json")
    document = json.loads(out)
    assert (code, err, document["ok"]) == (0, "", True)
    assert document["repair"]["emptied"] == ["loss, steps 0..40"]
    assert document["repair"]["steps"] == 0


def test_what_cannot_be_repaired_is_one_line_and_left_alone(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (run / "weights/c/0/0").write_bytes(b"torn")
    code, out, err = call(capfd, run, "--repair")
    assert (code, out) == (1, "")
    assert err.startswith("Error: ")
    assert "weights, steps 0..31: weights/c/0/0" in err
    assert len(err.strip().splitlines()) == 1
    assert not Path(f"{run}.damaged-1").exists()


def test_no_run_is_wrong_input(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capfd, tmp_path / "none")
    assert (code, out) == (2, "")
    assert "does not exist" in err
