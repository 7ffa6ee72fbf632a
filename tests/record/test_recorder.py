import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import ckptlab
from ckptlab.errors import (
    ConfigError,
    FormatVersionError,
    LockedError,
    RecordingError,
    RunExistsError,
    StoreError,
    UnknownNameError,
)
from ckptlab.record.recorder import Recorder
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from tests.record.loops import (
    Everything,
    Oops,
    assert_same_run,
    everything,
    memory_for,
    record,
    run,
    same_state,
    small,
    train_and_raise,
    update,
    vector,
)


def test_a_loop_of_ones_own_round_trips_exactly(tmp_path):
    """AdamW, tied weights, a frozen and a bfloat16 layer: every state dict, at every step."""
    model, optimizer = everything()
    states, gradients, losses, norms = [], [], [np.nan], [None]

    def note():
        states.append({k: v.clone() for k, v in model.state_dict().items()})

    note()
    optimizers = {}
    with record(tmp_path, model, optimizer, arrays=["weights", "gradients"]) as recorder:
        for step in range(10):
            loss = update(model, optimizer, step)
            recorder.step(loss=loss, accuracy=step / 10)
            note()
            losses.append(loss.item())
            grads = [p.grad for p in model.parameters()]
            gradients.append(grads)
            norms.append([np.nan if g is None else float(g.float().norm()) for g in grads])
            optimizers[step + 1] = vector_of_state(model, optimizer, "exp_avg")
    opened = ckptlab.open_run(tmp_path)
    assert opened.steps.tolist() == list(range(11))
    assert opened.state == "complete"
    for step, expected in enumerate(states):
        assert same_state(opened.state_dict(step), expected)
    fresh = Everything()
    fresh.load_state_dict(opened.state_dict(7))
    assert same_state(fresh.state_dict(), states[7])
    stored = open_store(tmp_path)
    assert np.array_equal(stored.small("loss"), np.array(losses, np.float32), equal_nan=True)
    assert stored.small("batch_accuracy")[1:] == pytest.approx(np.arange(10) / 10)
    assert np.isnan(stored.small("batch_accuracy")[0])
    assert np.isnan(stored.small("gradient_norm")[:, 0]).all()
    found_norms = stored.small("gradient_norm")[:, 1:].T
    assert found_norms == pytest.approx(np.array(norms[1:]), rel=1e-5, nan_ok=True)
    assert np.isnan(stored.snapshot(0, "gradients")).all()
    assert stored.anchors.tolist() == [3, 7, 10]
    for step in (3, 7, 10):
        found = stored.anchor(step).states["exp_avg"]
        assert np.array_equal(found, optimizers[step], equal_nan=True)
    assert verify(tmp_path, deep=True).ok


def vector_of_state(model, optimizer, key):
    parts = []
    for parameter in model.parameters():
        value = optimizer.state.get(parameter, {}).get(key)
        if value is None or not value.ndim:
            parts.append(np.full(parameter.numel(), np.nan, np.float32))
        else:
            parts.append(value.float().reshape(-1).numpy().copy())
    return np.concatenate(parts)


def test_gradients_are_those_the_update_used(tmp_path):
    model, optimizer = everything()
    expected = {}
    with record(tmp_path, model, optimizer, arrays=["weights", "gradients"]) as recorder:
        for step in range(6):
            recorder.step(loss=update(model, optimizer, step))
            parts = [
                torch.full((p.numel(),), torch.nan)
                if p.grad is None
                else p.grad.float().reshape(-1)
                for p in model.parameters()
            ]
            expected[step + 1] = torch.cat(parts).numpy().copy()
    stored = open_store(tmp_path)
    for step, gradient in expected.items():
        assert np.array_equal(stored.snapshot(step, "gradients"), gradient, equal_nan=True)
        magnitudes = np.abs(gradient)
        for index, tensor in enumerate(stored.layout.tensors):
            mean = magnitudes[tensor.offset : tensor.offset + tensor.size].mean()
            found = stored.small("gradient_mean_abs")[index, step]
            assert found == pytest.approx(mean, rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_zeroed_too_early_are_nan_and_said_once(tmp_path, to_none):
    model, optimizer = small()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # With the optimizer given they are taken before its update, whenever they are zeroed.
        with record(tmp_path, model, None, arrays=["weights", "gradients"]) as recorder:
            for step in range(12):
                loss = update(model, optimizer, step)
                optimizer.zero_grad(set_to_none=to_none)
                recorder.step(loss=loss)
    said = [w for w in caught if "before zero_grad()" in str(w.message)]
    assert len(said) == 1
    stored = open_store(tmp_path)
    assert np.isnan(stored.small("gradient_norm")).all()
    assert np.isnan(stored.array("gradients").read_block(1)).all()


@pytest.mark.parametrize(
    ("steps", "last", "expected"),
    [
        ("0:", 9, list(range(10))),
        ("0:20:3", 10, [0, 3, 6, 9, 10]),
        ("5:8", 12, [5, 6, 7, 12]),
        ("log:2", 12, [0, 1, 3, 10, 12]),
        ("100:", 3, [3]),
        ("0", 0, [0]),
        ("0:3, 6", 6, [0, 1, 2, 6]),
    ],
)
def test_schedules_and_the_last_state(tmp_path, steps, last, expected):
    model, optimizer = small()
    with record(tmp_path, model, optimizer, steps=steps) as recorder:
        seen = run(recorder, model, optimizer, last)
    stored = open_store(tmp_path)
    assert stored.steps.tolist() == expected
    for step in expected:
        assert np.array_equal(stored.snapshot(step), seen[step])
    assert stored.anchors[-1] == last
    assert verify(tmp_path, deep=True).ok


def test_epochs_in_schedules(tmp_path):
    model, optimizer = small()
    with record(tmp_path, model, optimizer, steps="0:1ep,1ep::1ep", steps_per_epoch=4) as recorder:
        run(recorder, model, optimizer, 13)
    assert open_store(tmp_path).steps.tolist() == [0, 1, 2, 3, 4, 8, 12, 13]


def test_an_update_that_amp_skips_is_marked(tmp_path):
    model, optimizer = small()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with record(tmp_path, model, optimizer) as recorder:
        for step in range(6):
            optimizer.zero_grad()
            x = torch.randn(8, 3)
            loss = model(x).square().mean() * (torch.inf if step in (2, 3) else 1)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            recorder.step(loss=loss)
    stored = open_store(tmp_path)
    assert stored.small("skipped").tolist() == [i in (3, 4) for i in range(7)]
    assert np.array_equal(stored.snapshot(4), stored.snapshot(2))
    assert not np.array_equal(stored.snapshot(5), stored.snapshot(4))


@pytest.mark.filterwarnings("ignore:no gradient was there")
def test_skipped_can_be_told_where_no_optimizer_is_known(tmp_path):
    model, _ = small()
    with record(tmp_path, model, None) as recorder:
        for skipped in (None, True, False):
            recorder.step(skipped=skipped)
    stored = open_store(tmp_path)
    assert stored.small("skipped").tolist() == [False, False, True, False]
    assert np.isnan(stored.small("lr")).all()


def test_the_learning_rate_is_that_of_the_update(tmp_path):
    model, optimizer = small(lr=1.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    with record(tmp_path, model, optimizer) as recorder:
        for step in range(5):
            update(model, optimizer, step)
            schedule.step()  # before the recorder is told
            recorder.step()
    assert open_store(tmp_path).small("lr")[1:].tolist() == [1.0, 0.5, 0.25, 0.125, 0.0625]


def test_compiled_modules_are_recorded_under_their_own_names(tmp_path):
    model, optimizer = small()
    compiled = torch.compile(model, backend="eager")
    with record(tmp_path, compiled, optimizer) as recorder:
        for step in range(3):
            optimizer.zero_grad()
            compiled(
                torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
            ).mean().backward()
            optimizer.step()
            recorder.step()
            assert recorder.step_number == step + 1
    stored = open_store(tmp_path)
    assert stored.layout.names == tuple(name for name, _ in model.named_parameters())
    assert np.array_equal(stored.snapshot(3), vector(model))


def test_patterns_choose_what_is_recorded(tmp_path):
    model, optimizer = everything()
    with record(tmp_path, model, optimizer, include=["first.*", "norm.*"], exclude=["*.bias"]) as r:
        run(r, model, optimizer, 3)
    stored = open_store(tmp_path)
    assert stored.layout.names == ("first.weight", "norm.weight")
    assert np.array_equal(stored.snapshot(3)[:256], model.first.weight.detach().reshape(-1).numpy())


def test_memory_sets_the_block(tmp_path):
    model, optimizer = small()
    for block, memory in ((32, "1GiB"), (2, memory_for(model, 2)), (1, memory_for(model, 1))):
        options = {"steps": "0:100", "memory": memory, "fsync": False}
        with Recorder(tmp_path / str(block), model, optimizer, **options):
            pass
        assert open_store(tmp_path / str(block)).attributes["block"] == block
    with (
        pytest.raises(ConfigError, match=r"Give at least \d+"),
        Recorder(tmp_path / "none", model, optimizer, memory=10),
    ):
        pass
    assert not (tmp_path / "none").exists()


def test_settings_that_are_not_accepted(tmp_path):
    model, optimizer = small()
    for options, error in (
        ({"arrays": ["weight"]}, UnknownNameError),
        ({"codec": "zstd"}, UnknownNameError),
        ({"steps": "x"}, ckptlab.errors.StepError),
        ({"memory": "lots"}, ConfigError),
    ):
        with pytest.raises(error, match="ccepted"):
            Recorder(tmp_path / "run", model, optimizer, **options)
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_written_over_unless_told(tmp_path):
    model, optimizer = small()
    path = tmp_path / "run.zarr"
    with record(path, model, optimizer) as recorder:
        run(recorder, model, optimizer, 3)
    with pytest.raises(RunExistsError, match="complete"), record(path, model, optimizer):
        pass
    with record(path, model, optimizer, overwrite=True):
        pass
    assert open_store(path).steps.tolist() == [0]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for overwrite in (False, True):
        with (
            pytest.raises(RunExistsError, match="no run"),
            record(tmp_path / "mine", model, optimizer, overwrite=overwrite),
        ):
            pass
    with (
        pytest.raises(StoreError, match="no ckptlab run"),
        record(tmp_path / "mine", model, optimizer, resume=True),
    ):
        pass
    with (
        pytest.raises(StoreError, match="does not exist"),
        record(tmp_path / "none", model, optimizer, resume=True),
    ):
        pass


def test_a_second_recorder_is_refused_and_harms_nothing(tmp_path):
    model, optimizer = small()
    with record(tmp_path, model, optimizer) as recorder:
        run(recorder, model, optimizer, 5)
        for options in ({"resume": True}, {"overwrite": True}):
            with (
                pytest.raises(LockedError, match="is being written by process"),
                record(tmp_path, model, optimizer, **options),
            ):
                pass
        run(recorder, model, optimizer, 9)
    assert open_store(tmp_path).steps.tolist() == list(range(10))


def test_it_records_inside_its_with_block_once(tmp_path):
    model, optimizer = small()
    recorder = record(tmp_path, model, optimizer)
    for call in (recorder.step, recorder.evaluate):
        with pytest.raises(RecordingError, match="`with` block"):
            call()
    with recorder:
        pass
    with pytest.raises(RecordingError, match="`with` block"):
        recorder.step()
    with pytest.raises(RecordingError, match="used already"), recorder:
        pass


def test_evaluations_belong_to_steps_and_come_once(tmp_path):
    model, optimizer = small()
    with record(tmp_path, model, optimizer) as recorder:
        recorder.evaluate(loss=3.0, accuracy=0.1)
        for stop in (2, 4, 7):
            run(recorder, model, optimizer, stop)
            recorder.evaluate(loss=torch.tensor(float(stop)))
            recorder.evaluate(loss=99.0)
        assert recorder.evaluated == {0, 2, 4, 7}
    stored = open_store(tmp_path)
    assert stored.small("eval_step").tolist() == [0, 2, 4, 7]
    assert stored.small("eval_loss").tolist() == [3, 2, 4, 7]
    assert np.isnan(stored.small("eval_accuracy")[1:]).all()


@pytest.mark.parametrize("block", [1, 4])
def test_loss_and_accuracy_of_an_evaluation_may_come_in_two_calls(tmp_path, block):
    model, optimizer = small()
    with record(tmp_path, model, optimizer, block=block) as recorder:
        for stop in (0, 3, 5):
            run(recorder, model, optimizer, stop)
            recorder.evaluate(loss=float(stop))
            recorder.evaluate(accuracy=stop / 10)
            recorder.evaluate(loss=99.0, accuracy=99.0)
    stored = open_store(tmp_path)
    assert stored.small("eval_step").tolist() == [0, 3, 5]
    assert stored.small("eval_loss").tolist() == [0, 3, 5]
    assert stored.small("eval_accuracy").tolist() == pytest.approx([0, 0.3, 0.5])


@pytest.mark.parametrize(
    "bad", [torch.zeros(2), "0.5", [1.0], 1j, torch.zeros(1, dtype=torch.cfloat)]
)
def test_a_loss_that_is_no_number_loses_nothing(tmp_path, bad):
    model, optimizer = small()

    def report(recorder):
        update(model, optimizer, 6)
        recorder.step(loss=bad)

    with pytest.raises(ConfigError, match="one number"):
        train_and_raise(tmp_path, model, optimizer, 6, first=report)
    stored = open_store(tmp_path)
    assert stored.steps.tolist() == list(range(7))
    assert stored.state == "interrupted"
    # The optimizer had moved on: its state is not paired with weights of the step before.
    assert stored.anchors.tolist() == [3]


@pytest.mark.parametrize("value", [torch.tensor([2.5]), 2.5, np.float32(2.5), np.array(2.5)])
@pytest.mark.filterwarnings("ignore:no gradient was there")
def test_any_single_number_is_a_loss(tmp_path, value):
    model, optimizer = small()
    with record(tmp_path, model, optimizer) as recorder:
        recorder.step(loss=value, accuracy=value)
    assert open_store(tmp_path).small("loss")[1] == 2.5


@pytest.mark.parametrize("error", [Oops, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_an_exception_in_the_loop_commits_what_was_recorded(tmp_path, error):
    model, optimizer = small()
    with pytest.raises(error):
        train_and_raise(tmp_path, model, optimizer, 6, error)
    stored = open_store(tmp_path)
    assert stored.state == "interrupted"
    assert stored.steps.tolist() == list(range(7))
    assert np.array_equal(stored.snapshot(6), vector(model))
    assert stored.anchors.tolist() == [3, 6]
    assert verify(tmp_path, deep=True).ok


def test_sys_exit_in_the_loop(tmp_path):
    model, optimizer = small()
    with pytest.raises(SystemExit) as left:
        train_and_raise(tmp_path, model, optimizer, 5, first=lambda _: sys.exit(3))
    assert left.value.code == 3
    assert open_store(tmp_path).anchors.tolist() == [3, 5]


def raise_within(optimizer):
    def closure():
        raise Oops

    optimizer.step(closure)


@pytest.mark.parametrize("where", ["after the update", "within the update"])
def test_an_optimizer_that_moved_on_is_not_paired_with_older_weights(tmp_path, where):
    model, optimizer = small()

    def move(_):
        if where == "after the update":
            update(model, optimizer, 6)
        else:
            raise_within(optimizer)

    with pytest.raises(Oops):
        train_and_raise(tmp_path, model, optimizer, 6, first=move)
    stored = open_store(tmp_path)
    assert stored.steps.tolist() == list(range(7))
    assert stored.anchors.tolist() == [3]
    again, restored = small()
    with record(tmp_path, again, restored, resume=True) as recorder:
        assert recorder.step_number == 3
        seen = run(recorder, again, restored, 9)
    expected, other = small()
    with record(tmp_path / "b", expected, other) as recorder:
        run(recorder, expected, other, 9)
    assert np.array_equal(seen[9], vector(expected))
    assert_same_run(tmp_path, tmp_path / "b")


def test_buffers_a_forward_pass_moved_are_not_recorded_as_the_last_state(tmp_path):
    """An exception between two updates, under a sparse schedule, with batch norm."""
    model, optimizer = small()
    options = {"steps": "0:100:4"}
    with pytest.raises(Oops):
        train_and_raise(
            tmp_path, model, optimizer, 18, first=lambda _: model(torch.randn(8, 3)), **options
        )
    stored = open_store(tmp_path)
    assert stored.steps[-1] == 16
    again, restored = small()
    with record(tmp_path, again, restored, resume=True, **options) as recorder:
        assert recorder.step_number == 12
        run(recorder, again, restored, 24)
    expected, other = small()
    with record(tmp_path / "b", expected, other, **options) as recorder:
        run(recorder, expected, other, 24)
    assert same_state(again.state_dict(), expected.state_dict())
    assert_same_run(tmp_path, tmp_path / "b")


def as_after_a_signal(recorder):
    """A signal comes at the end of a step, when nothing has moved since; so does this."""
    recorder._session.interrupts.acted = True


@pytest.mark.parametrize("steps", ["0:", "0:40:3", "log:5", "2:7,10:12"])
@pytest.mark.parametrize(
    ("stops", "flush"),
    [((4,), 60.0), ((3, 11, 12), 60.0), ((2, 2, 7), 60.0), ((5, 6), 0.0), ((2, 2, 7), 0.0)],
)
@pytest.mark.filterwarnings("ignore:no gradient was there")
def test_resuming_is_exact_wherever_it_stopped(tmp_path, steps, stops, flush):
    options = {"steps": steps, "flush_seconds": flush}
    model, optimizer = small()
    with record(tmp_path / "a", model, optimizer, **options) as recorder:
        run(recorder, model, optimizer, 17)
        recorder.evaluate(loss=1.0)
    final = model.state_dict()
    for before, stop in zip((0, *stops), (*stops, None), strict=True):
        model, optimizer = small()
        options["resume"] = before > 0
        if stop is not None:
            with pytest.raises(Oops):
                train_and_raise(
                    tmp_path / "b", model, optimizer, stop, first=as_after_a_signal, **options
                )
            stored = open_store(tmp_path / "b")
            assert (stored.state, stored.anchors[-1]) == ("interrupted", stop)
        else:
            with record(tmp_path / "b", model, optimizer, **options) as recorder:
                assert recorder.step_number == before
                run(recorder, model, optimizer, 17)
                recorder.evaluate(loss=1.0)
    assert same_state(model.state_dict(), final)
    assert_same_run(tmp_path / "b", tmp_path / "a")
    assert verify(tmp_path / "b", deep=True).ok


def test_resuming_a_loop_with_everything_in_it_is_exact(tmp_path):
    model, optimizer = everything()
    with record(tmp_path / "a", model, optimizer, arrays=["weights", "gradients"]) as recorder:
        run(recorder, model, optimizer, 11)
    final = model.state_dict()
    model, optimizer = everything()
    with pytest.raises(Oops):
        train_and_raise(tmp_path / "b", model, optimizer, 6, arrays=["weights", "gradients"])
    model, optimizer = everything()
    with record(tmp_path / "b", model, optimizer, resume=True) as recorder:
        assert recorder.step_number == 6
        run(recorder, model, optimizer, 11)
    assert same_state(model.state_dict(), final)
    assert_same_run(tmp_path / "b", tmp_path / "a")


def test_a_complete_run_can_be_extended(tmp_path):
    for name, stops in (("a", (12,)), ("b", (7, 12))):
        for number, stop in enumerate(stops):
            model, optimizer = small()
            with record(tmp_path / name, model, optimizer, resume=number > 0) as recorder:
                run(recorder, model, optimizer, stop)
    assert_same_run(tmp_path / "b", tmp_path / "a")


def test_times_go_on_where_they_stopped(tmp_path):
    for resume in (False, True):
        model, optimizer = small()
        with record(tmp_path, model, optimizer, resume=resume) as recorder:
            run(recorder, model, optimizer, recorder.step_number + 5)
    times = open_store(tmp_path).small("wall_time")
    assert len(times) == 11
    assert (np.diff(times) > 0).all()
    assert times[0] >= 0


def test_what_is_no_continuation_is_refused(tmp_path):
    model, optimizer = small()
    with record(tmp_path, model, optimizer) as recorder:
        run(recorder, model, optimizer, 6)

    def resumed(other, **options):
        other_optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
        with record(tmp_path, other, other_optimizer, resume=True, **options):
            pass

    other = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(ckptlab.errors.LayoutError, match=r"'2\.weight' is \(2, 2\).*\(1, 2\)"):
        resumed(other)
    with pytest.raises(ckptlab.errors.LayoutError, match="missing in the model"):
        resumed(nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)))
    with pytest.raises(ConfigError, match=r"'0:9' is not the schedule of the run, '0:'"):
        resumed(small()[0], steps="0:9")
    report = verify(tmp_path, deep=True)
    assert report.ok
    assert (report.state, report.steps) == ("complete", 7)


def test_a_run_that_leaves_trained_parameters_out_cannot_be_resumed(tmp_path):
    model, optimizer = small()
    with record(tmp_path, model, optimizer, exclude=["0.*"]) as recorder:
        run(recorder, model, optimizer, 3)
    with (
        pytest.raises(ConfigError, match="excluded, so training cannot be resumed"),
        record(tmp_path, model, optimizer, exclude=["0.*"], resume=True),
    ):
        pass


def test_a_run_of_a_newer_format_is_not_resumed(tmp_path):
    import json

    from ckptlab.store.format.zarr_metadata import metadata_digest

    model, optimizer = small()
    with record(tmp_path, model, optimizer):
        pass
    root = json.loads((tmp_path / "zarr.json").read_text())
    root["attributes"]["format"] = 2
    root["attributes"]["metadata_digest"] = metadata_digest(
        root["attributes"], root["consolidated_metadata"]["metadata"]
    )
    (tmp_path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(FormatVersionError), record(tmp_path, model, optimizer, resume=True):
        pass


def test_figures_of_a_recording(tmp_path):
    model, optimizer = small()
    recorder = record(tmp_path, model, optimizer)
    assert recorder.stats.recorded == 0
    with recorder:
        run(recorder, model, optimizer, 9)
        assert recorder.stats.recorded == 10
        assert recorder.stats.committed in (0, 4, 8)
    assert recorder.stats.committed == 10
    stored = sum(p.stat().st_size for p in (tmp_path / "weights/c").rglob("*") if p.is_file())
    assert recorder.stats.stored_bytes == stored
    parameters = open_store(tmp_path).layout.parameters
    assert recorder.stats.raw_bytes == 4 * parameters * 10
    assert recorder.stats.ratio == recorder.stats.raw_bytes / stored


def test_what_the_user_says_of_the_run_is_kept(tmp_path):
    model, optimizer = small()
    with record(
        tmp_path,
        model,
        optimizer,
        config={"depth": 3},
        seeds={"init": 1},
        attributes={"note": "µ"},
        total_steps=10,
    ):
        pass
    attributes = open_store(tmp_path).attributes
    assert attributes["config"] == {"depth": 3}
    assert attributes["seeds"] == {"init": 1}
    assert (attributes["note"], attributes["total_steps"]) == ("µ", 10)
    assert (attributes["start"], attributes["end"]) == (0, 0)


def test_weights_replaced_by_other_tensors_are_recorded(tmp_path):
    """As `model.to` or a loaded state dict do between updates."""
    model, optimizer = small()
    with record(tmp_path, model, optimizer) as recorder:
        seen = run(recorder, model, optimizer, 2)
        for parameter in model.parameters():
            parameter.data = parameter.data.clone() + 1
        recorder.step()
        seen[3] = vector(model)
        model[0].weight.data = model[0].weight.data.t().contiguous().t()
        recorder.step()
        seen[4] = vector(model)
    stored = open_store(tmp_path)
    for step, expected in seen.items():
        assert np.array_equal(stored.snapshot(step), expected)
