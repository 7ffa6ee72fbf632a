"""Which files and folders make up a series; bad input is named before anything is written."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import save_file

from ckptlab.errors import ConfigError, DataError, UnknownNameError, UnsupportedTensorError
from ckptlab.record.convert.find_checkpoints import Choice, find_checkpoints, open_checkpoint
from ckptlab.record.convert.import_checkpoints import import_checkpoints
from ckptlab.run import open_run
from tests.record.convert.test_layouts import (
    FOREIGN,
    LAYOUTS,
    STEPS,
    distributed,
    open_lth,
    require_exact,
    sharded_safetensors,
    state,
    trainer,
)

ONE = {"weight": torch.ones(3, 2)}


def fill(folder, **contents):
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        if isinstance(content, bytes):
            (folder / f"{name}.pt").write_bytes(content)
        else:
            torch.save(content, folder / f"{name}.pt")
    return folder


def steps(folder, **choice):
    return [c.step for c in find_checkpoints(folder, Choice(**choice)).checkpoints]


def refused(folder, tmp_path, **choice):
    """Import a folder that cannot be; return the one line that says why."""
    before = sorted(map(str, tmp_path.rglob("*")))
    with pytest.raises((DataError, UnsupportedTensorError, ConfigError)) as error:
        import_checkpoints(folder, tmp_path / "out", choice=Choice(**choice))
    assert "\n" not in str(error.value)
    assert sorted(map(str, tmp_path.rglob("*"))) == before
    return str(error.value)


@pytest.mark.parametrize(
    "layout", ["HF Trainer", "sharded: `model", "torch DCP", "DeepSpeed", "Megatron"]
)
def test_a_folder_that_is_a_checkpoint_is_one_step(tmp_path, layout):
    make = next(make for name, make in LAYOUTS.items() if name.startswith(layout))
    make(tmp_path)
    path = next(p for p in sorted(tmp_path.iterdir()) if p.is_dir())
    assert steps(path) == [100]
    assert open_checkpoint(path).checkpoints[0].step == 100


def test_the_step_inside_counts_and_a_name_that_differs_is_told(tmp_path):
    fill(tmp_path / "old", step_1={**ONE}, step_2={"model": ONE, "global_step": 2})
    assert steps(tmp_path / "old") == [1, 2]
    fill(tmp_path / "old", step_1={"model": ONE, "global_step": 11})
    series = find_checkpoints(tmp_path / "old")
    assert [c.step for c in series.checkpoints] == [2, 11]
    assert "step_1.pt says step 11 inside, which counts" in series.notes
    assert steps(tmp_path / "old", step_from=r"step_(\d+)") == [1, 2]


def test_epochs_and_steps_within_them(tmp_path):
    open_lth(tmp_path)
    series = find_checkpoints(tmp_path)
    assert [c.step for c in series.checkpoints] == [1, 2]
    assert any("the steps are epochs" in note for note in series.notes)
    assert {"mask.pth", "checkpoint.pth"} <= {
        n.split()[2].rstrip(":") for n in series.notes if "left" in n
    }
    torch.save(state(1), tmp_path / "model_ep1_it50.pth")
    with pytest.raises(DataError, match=r"count epochs and steps within them.*--steps-per-epoch N"):
        find_checkpoints(tmp_path)
    assert steps(tmp_path, steps_per_epoch=391) == [391, 441, 782]


def test_steps_that_begin_anew_in_each_epoch_are_not_put_in_a_false_order(tmp_path):
    folder = fill(tmp_path / "old", epoch_1_batch_200=ONE, epoch_2_batch_100=ONE)
    assert "--steps-per-epoch" in refused(folder, tmp_path)
    assert steps(folder, steps_per_epoch=300) == [500, 700]


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (("stage1-step100", "stage1-step200", "stage2-step100"), "stage1-*"),
        (("a_step1", "a_step2", "b_step3", "b_step4"), "a_*"),
        (("net_seed1_100", "net_seed2_100"), "net_seed1*"),
    ],
)
def test_a_folder_with_two_series_in_it(tmp_path, names, pattern):
    folder = fill(tmp_path / "old", **dict.fromkeys(names, ONE))
    said = refused(folder, tmp_path)
    assert "holds 2 series" in said
    assert "--pattern" in said
    assert len(steps(folder, pattern=pattern)) == sum(
        n.startswith(pattern.rstrip("*")) for n in names
    )


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (
            {"a1": ONE, "a2": {"weight": torch.ones(4, 2)}},
            "not of one model.*import the parts apart",
        ),
        ({"a1": ONE, "a2": {"weight": torch.ones(3, 2).bfloat16()}}, "is bfloat16 of shape"),
        ({"a1": ONE, "a2": {"other": torch.ones(3, 2)}}, "lacks tensor"),
        ({"a1": b"nonsense", "a2": ONE}, r"a1\.pt is damaged"),
        ({"step1-v1": ONE, "step1": ONE}, "both count as step 1"),
        ({"best": ONE}, "has no step in its name"),
        ({"a1": {"w": torch.ones(2, dtype=torch.complex64)}}, r"'w' \(complex64\)"),
        ({"a1": {"w": torch.ones(2).to(torch.float8_e4m3fn)}}, r"'w' \(float8_e4m3fn\)"),
        ({"a1": {"w": torch.ones(2, 2).to_sparse()}}, "not dense"),
        ({"a1": torch.optim.Adam([torch.ones(2)]).state_dict()}, "holds no tensors by name"),
    ],
)
def test_what_is_no_series_is_told_in_one_line(tmp_path, contents, said):
    import re

    assert re.search(said, refused(fill(tmp_path / "old", **contents), tmp_path))


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_torchs_is_called_by_its_name(tmp_path, name):
    path = tmp_path / "old" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    what, fix = FOREIGN[name]
    told = refused(tmp_path / "old", tmp_path)
    assert told.endswith(f" is {what}, not one of torch's; {fix}")


def test_programs_of_torchscript_are_refused(tmp_path):
    (tmp_path / "old").mkdir()
    with pytest.warns(FutureWarning):
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "old" / "step_1.pt"))
    assert "TorchScript program" in refused(tmp_path / "old", tmp_path)


def test_a_pattern_chooses_and_one_that_matches_nothing_is_told(tmp_path):
    folder = fill(tmp_path / "old", a1=ONE, a2=ONE, b3={"x": torch.ones(1)})
    assert steps(folder, pattern="a*") == [1, 2]
    assert "matches nothing" in refused(folder, tmp_path, pattern="c*")
    assert "leads out of" in refused(folder, tmp_path, pattern="../*")
    assert "1 file" not in refused(folder, tmp_path, step_from="(")
    with pytest.raises(UnknownNameError, match="model-folder"):
        find_checkpoints(folder, Choice(reader="modelfolder"))


def cut_file(path):
    path.write_bytes(path.read_bytes()[:-100])


def drop_shard(path):
    (path / "model-00002-of-00002.safetensors").unlink()


def drop_metadata(path):
    (path / ".metadata").unlink()


def cut_data(path):
    cut_file(path / "__0_0.distcp")


def cut_trainer(path):
    cut_file(path / "model.safetensors")


def drop_trainer_state(path):
    (path / "trainer_state.json").unlink()


def files(folder):
    for step in STEPS:
        torch.save(state(step), folder / f"step_{step}.pt")


def empty_file(path):
    path.write_bytes(b"")


UNFINISHED = [
    (files, "step_{}.pt", cut_file),
    (files, "step_{}.pt", empty_file),
    (sharded_safetensors, "step{}", drop_shard),
    (distributed, "step-{}", drop_metadata),
    (distributed, "step-{}", cut_data),
    (trainer, "checkpoint-{}", cut_trainer),
    (trainer, "checkpoint-{}", drop_trainer_state),
]


@pytest.mark.parametrize(("make", "name", "damage"), UNFINISHED)
@pytest.mark.parametrize("follow", [False, True])
def test_a_half_written_last_checkpoint_is_left_out_and_taken_when_it_is_whole(
    tmp_path, make, name, damage, follow
):
    (tmp_path / "old").mkdir()
    make(tmp_path / "old")
    shutil.copytree(tmp_path / "old", tmp_path / "whole")
    damage(tmp_path / "old" / name.format(200))
    done = import_checkpoints(tmp_path / "old", tmp_path / "run", follow=follow, codec="fast")
    last = name.format(200)
    assert (done.steps, done.last) == (1, 100)
    assert any(f"left out {last}: half-written" in note for note in done.notes)
    if follow:
        done = import_checkpoints(tmp_path / "whole", tmp_path / "run", follow=True)
        assert (done.steps, done.new, done.last) == (2, 1, 200)
        require_exact(tmp_path / "run", {step: state(step) for step in STEPS})


@pytest.mark.parametrize(
    ("make", "name", "damage"), [u for u in UNFINISHED if u[2] is not drop_trainer_state]
)
def test_a_damaged_checkpoint_before_the_last_is_named(tmp_path, make, name, damage):
    (tmp_path / "old").mkdir()
    make(tmp_path / "old")
    damage(tmp_path / "old" / name.format(100))
    assert name.format(100) in refused(tmp_path / "old", tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    (tmp_path / "old").mkdir()
    sharded_safetensors(tmp_path / "old")
    drop_shard(tmp_path / "old" / "step100")
    said = refused(tmp_path / "old", tmp_path)
    assert (
        "step100 lacks model-00002-of-00002.safetensors, which model.safetensors.index.json" in said
    )


def test_links_and_what_macos_leaves_are_left_out(tmp_path):
    folder = fill(tmp_path / "old", step_1=ONE, step_2=ONE)
    (folder / "step_3.pt").symlink_to("step_2.pt")
    (folder / "._step_1.pt").write_bytes(b"x")
    (folder / ".hidden.pt").write_bytes(b"x")
    (folder / "step_9").mkdir()
    series = find_checkpoints(folder)
    assert [c.step for c in series.checkpoints] == [1, 2]
    assert any("step_3.pt: a link to step_2.pt" in note for note in series.notes)
    assert any("._step_1.pt" in note for note in series.notes)
    assert any("step_9: a folder without a checkpoint" in note for note in series.notes)
    os.mkfifo(folder / "step_4.pt")
    assert "is no file that can be read" in refused(folder, tmp_path)


def test_what_was_left_out_is_kept_in_the_run(tmp_path):
    folder = fill(tmp_path / "old", step_1={"model": ONE, "ema": ONE}, best=ONE)
    done = import_checkpoints(folder, tmp_path / "run")
    assert open_run(tmp_path / "run").attributes["imported"] == {
        "folder": "old",
        "files": 1,
        "notes": done.notes,
    }
    assert json.dumps(done.notes).count("left out") == 2


def test_one_file_in_a_folder_is_a_series_of_one(tmp_path):
    (tmp_path / "step7").mkdir()
    save_file(ONE, tmp_path / "step7" / "weights.safetensors")
    assert steps(tmp_path) == [7]
    assert steps(fill(tmp_path / "old", step_3=ONE)) == [3]
