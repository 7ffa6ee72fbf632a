from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ckptlab.run import open_run


def test_steps_go_out_as_checkpoints_and_come_back_as_a_run(
    small_run: Path, tmp_path, call
) -> None:
    folder, back = tmp_path / "checkpoints", tmp_path / "back.zarr"
    for step in (0, 10, 40):
        path = folder / f"step_{step}.safetensors"
        given = [] if step == 40 else ["--step", step]
        code, out, err = call("export", small_run, *given, "-o", path)
        assert (code, out, err) == (0, f"{path}\n", "")
    code, out, err = call("import", folder, "-o", back, "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert (said["path"], said["steps"], said["first"], said["last"]) == (str(back), 3, 0, 40)
    original, run = open_run(small_run), open_run(back)
    assert run.steps.tolist() == [0, 10, 40]
    kinds = {tensor.name: tensor.kind for tensor in original.layout.tensors}
    assert {tensor.name: tensor.kind for tensor in run.layout.tensors} == kinds
    for step in (0, 10, 40):
        expected, found = original.state_dict(step), run.state_dict(step)
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    code, out, err = call("info", back)
    assert (code, err) == (0, "")
    assert "3 (0..40)" in out
    code, out, err = call("analyze", "weight-distance", back, "--json")
    assert (code, err) == (0, "")
    expected = original.analyze("weight-distance").sel(step=[0, 10, 40])
    assert json.loads(out)["data"] == pytest.approx(expected.values.tolist())
    with safe_open(folder / "step_40.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_range_of_steps_goes_out_as_folders_or_files(small_run: Path, tmp_path, call) -> None:
    run, like, out = open_run(small_run), tmp_path / "like", tmp_path / "series"
    like.mkdir()
    (like / "config.json").write_text("{}")
    code, said, _ = call("export", small_run, "--steps", "0:40:20", "--like", like, "-o", out)
    folders = [out / f"checkpoint-{step}" for step in (0, 20)]
    assert (code, said.split()) == (0, [str(folder) for folder in folders])
    for folder, step in zip(folders, (0, 20), strict=True):
        assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
        found = load_file(folder / "model.safetensors")
        expected = run.state_dict(step)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    code, said, _ = call("export", small_run, "--steps", "0:40:20", "-o", out / "s{step}.pt")
    assert (code, said.split()) == (0, [f"{out}/s0.pt", f"{out}/s20.pt"])
    call("export", small_run, "--shard-size", "4KB", "-o", tmp_path / "one")
    assert (tmp_path / "one" / "model.safetensors.index.json").exists()


def test_bad_input_is_told_in_one_line(small_run: Path, tmp_path: Path, call) -> None:
    for arguments, said in [
        (("export", small_run, "--step", 41, "-o", tmp_path / "a.pt"), "41"),
        (("export", small_run, "-o", tmp_path / "a.bin"), ".safetensors, .pt, .pth"),
        (("export", small_run), "--output"),
        (("export", small_run, "--steps", "0:", "-o", tmp_path / "a.pt"), "put {step} in its name"),
        (("export", small_run, "--step", 1, "--steps", "0:", "-o", tmp_path / "a"), "not both"),
        (("export", small_run, "--steps", "50:60", "-o", tmp_path / "a"), "50:60"),
        (("export", small_run, "-o", tmp_path / "a.pt", "--like", tmp_path), "is for folders"),
        (("export", small_run, "-o", tmp_path / "a", "--like", tmp_path), "no config.json"),
        (("export", small_run, "-o", tmp_path / "a", "--shard-size", "x"), "'x' is not an amount"),
        (("import", tmp_path / "none", "-o", tmp_path / "run"), "is no folder"),
        (("import", tmp_path, "--revisions", "s*", "-o", tmp_path / "run"), "give hf://OWNER/NAME"),
        (("import", "hf://a/b", "--pattern", "s*", "-o", tmp_path / "run"), "--pattern is for"),
        (("import", "hf://a", "-o", tmp_path / "run"), "'hf://a' names no repository"),
        (("push", tmp_path / "none", "hf://a/b"), "none"),
        (("pull", "hf://a/b"), "--output"),
        (("import", tmp_path, "-o", tmp_path / "run"), "holds no file"),
        (("import", tmp_path, "-o", tmp_path / "run", "--codec", "zip"), "Accepted: dense, fast"),
    ]:
        code, out, err = call(*arguments)
        assert (code, out) == (2, ""), err
        assert said in err
        assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
