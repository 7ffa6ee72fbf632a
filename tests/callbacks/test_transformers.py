"""The callback in a real Trainer: updates, not micro-batches, and the step of its checkpoints."""

import numpy as np
import pytest
import torch
import transformers

from ckptlab.callbacks.transformers import RecorderCallback
from ckptlab.errors import ConfigError
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from tests.record.loops import Oops, assert_same_run, vector

STEPS = 6


class Witness(transformers.TrainerCallback):
    """An independent copy of the parameters after every update."""

    def __init__(self, stop=None) -> None:
        self.seen, self.stop = {}, stop

    def on_train_begin(self, args, state, control, model=None, **_):
        self.seen[state.global_step] = vector(model)

    def on_step_end(self, args, state, control, model=None, **_):
        self.seen[state.global_step] = vector(model)
        if state.global_step == self.stop:
            raise Oops


def trainer_of(folder, *callbacks, **arguments):
    transformers.set_seed(0)
    config = transformers.GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=1)
    model = transformers.GPT2LMHeadModel(config)
    tokens = torch.randint(0, 16, (48, 6), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": row, "labels": row} for row in tokens]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=3,
        learning_rate=1e-2,
        logging_steps=1,
        save_steps=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **arguments,
    )
    return transformers.Trainer(
        model, arguments, train_dataset=data, eval_dataset=data[:4], callbacks=list(callbacks)
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    witness = Witness()
    path = folder / "run.zarr"
    callback = RecorderCallback(path, fsync=False)
    trainer = trainer_of(folder, witness, callback, eval_strategy="steps", eval_steps=3)
    trainer.train()
    return path, witness, trainer


def test_every_update_is_recorded_exactly_with_its_loss_and_rate(whole):
    path, witness, trainer = whole
    stored = open_store(path)
    assert stored.state == "complete"
    assert stored.attributes["total_steps"] == STEPS
    assert stored.steps.tolist() == list(witness.seen) == list(range(STEPS + 1))
    for step, expected in witness.seen.items():
        assert np.array_equal(stored.snapshot(step), expected)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert stored.small("loss")[1:] == pytest.approx([e["loss"] for e in logged], rel=1e-4)
    rates = [e["learning_rate"] for e in logged]
    assert stored.small("lr_1")[1:] == pytest.approx(stored.small("lr")[1:])
    assert stored.small("lr")[1:] == pytest.approx([0.01 * (1 - k / STEPS) for k in range(STEPS)])
    assert max(rates) <= 0.01
    evaluations = [e for e in trainer.state.log_history if "eval_loss" in e]
    assert stored.small("eval_step").tolist() == [e["step"] for e in evaluations] == [3, 6]
    assert stored.small("eval_loss").tolist() == [e["eval_loss"] for e in evaluations]
    assert verify(path, deep=True).ok


@pytest.mark.parametrize("stop", [3, 5])
def test_training_goes_on_from_the_checkpoint_at_its_step(whole, tmp_path, stop):
    """Killed after a checkpoint, it goes on from there; what was recorded after it is replaced."""
    path = tmp_path / "run.zarr"
    options = {"eval_strategy": "steps", "eval_steps": 3}
    with pytest.raises(Oops):
        trainer_of(tmp_path, RecorderCallback(path, fsync=False), Witness(stop), **options).train()
    witness = Witness()
    trainer = trainer_of(tmp_path, RecorderCallback(path, fsync=False), witness, **options)
    trainer.train(resume_from_checkpoint=True)
    assert min(witness.seen) == stop - 1
    assert open_store(path).steps.tolist() == list(range(STEPS + 1))
    stored, expected = open_store(path), open_store(whole[0])
    for step in range(STEPS + 1):
        assert np.array_equal(stored.snapshot(step), expected.snapshot(step))
    assert_same_run(path, whole[0], upto=STEPS)
    assert verify(path, deep=True).ok


def test_a_checkpoint_made_without_a_recorder_begins_a_run_at_its_step(tmp_path):
    with pytest.raises(Oops):
        trainer_of(tmp_path, Witness(3)).train()
    callback = RecorderCallback(tmp_path / "run.zarr", fsync=False)
    trainer_of(tmp_path, callback).train(resume_from_checkpoint=True)
    assert open_store(tmp_path / "run.zarr").steps.tolist() == [2, 3, 4, 5, 6]


def test_a_second_training_does_not_replace_the_first(whole, tmp_path):
    from ckptlab.errors import RunExistsError

    before = open_store(whole[0]).steps.tolist()
    with pytest.raises(RunExistsError, match="exists and holds a run"):
        trainer_of(tmp_path, RecorderCallback(whole[0])).train()
    assert open_store(whole[0]).steps.tolist() == before


def test_a_callback_without_an_optimizer_is_refused(tmp_path):
    callback = RecorderCallback(tmp_path / "run.zarr")
    state = transformers.TrainerState()
    with pytest.raises(ConfigError, match="the trainer has no optimizer"):
        callback.on_train_begin(None, state, None, model=torch.nn.Linear(1, 1), optimizer=None)
    assert not (tmp_path / "run.zarr").exists()
