from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from ckptlab.record.recorder import Recorder
from ckptlab.store.read.reader import open_store
from ckptlab.train.assemble import build
from ckptlab.train.config import load_config
from ckptlab.train.cuda_graph import GraphedStep
from ckptlab.train.trainer import train

SMALL = [
    "model.name=resnet8",
    "model.width=4",
    "data.name=synthetic",
    "data.image_size=8",
    "data.samples=100",
    "data.flip=true",
    "data.crop=1",
    "train.batch_size=32",
    "train.steps=12",
    "optim.schedule=cosine",
    "record.fsync=false",
]
STAGES = 'task.stages=[{name = "random-labels", steps = "2:5"}, {name = "blur", steps = "7:9"}]'
VARIANTS = [
    [],
    ["task.name=rotation"],
    [STAGES],
    ["train.precision=bf16"],
]

# On the CPU it takes no learning rate that lies in a tensor.
ADAMW = ["optim.name=adamw", "optim.lr=0.01"]

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def again(update):
    """Stand in for a graph where there is no CUDA: nothing is done now, and the same later."""
    return update


def weights_of(training) -> np.ndarray:
    return parameters_to_vector(training.model.parameters()).detach().cpu().numpy()


@pytest.mark.parametrize("overrides", VARIANTS)
def test_updates_are_those_of_the_plain_step(overrides):
    """Samples, draws and rate come from tensors; warming up leaves no trace."""
    config = load_config(overrides=[*SMALL, "train.device=cpu", "train.threads=1", *overrides])
    plain, graphed = build(config), build(config)
    run = GraphedStep(graphed.update, again)
    with plain.numerics():
        for k in range(12):
            expected, found = plain.step(k), run(k)
            assert torch.equal(expected.loss, found.loss)
            assert torch.equal(expected.accuracy, found.accuracy)
            assert np.array_equal(weights_of(plain), weights_of(graphed))
    for one, other in zip(plain.model.buffers(), graphed.model.buffers(), strict=True):
        assert torch.equal(one, other)


def test_a_graph_is_made_for_each_batch_size_and_task():
    config = load_config(overrides=[*SMALL, "train.device=cpu", STAGES])
    made = []

    def count(update):
        made.append(update)
        return update

    run = GraphedStep(build(config).update, count)
    for k in range(12):
        run(k)
    # 100 samples are three batches of 32 and one of 4, which comes at steps 3, 7 and 11:
    # the usual task, random labels and blur each meet both sizes.
    assert len(made) == 6


def test_gradients_are_those_of_the_last_update():
    config = load_config(overrides=[*SMALL, "train.device=cpu"])
    training = build(config)
    stored: dict[int, list[torch.Tensor]] = {}

    def make(update):
        # As a graph does: each leaves its gradients in tensors of its own.
        own = [torch.zeros_like(p) for p in training.model.parameters()]

        def replay():
            result = update()
            for place, parameter in zip(own, training.model.parameters(), strict=True):
                place.copy_(parameter.grad)
                parameter.grad = None
            return result

        for parameter, place in zip(training.model.parameters(), own, strict=True):
            parameter.grad = place
        stored[len(stored)] = own
        return replay

    run = GraphedStep(training.update, make)
    for k in range(8):
        run(k)
        graph = stored[k % 4 == 3]
        # Only where the graph changes are gradients handed over.
        if k in (0, 3, 4, 7):
            for parameter, place in zip(training.model.parameters(), graph, strict=True):
                assert parameter.grad is place


def test_an_update_that_does_not_end_is_not_recorded_as_done(tmp_path):
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def lose_the_device():
        with Recorder(tmp_path / "a.zarr", model, optimizer, fsync=False) as recorder:
            recorder.begin_update()
            recorder.step(loss=0.0, lr=0.25, skipped=False)
            recorder.begin_update()
            with torch.no_grad():
                model.weight.add_(1)
            raise RuntimeError("device lost")

    with pytest.warns(UserWarning, match="no gradient"), pytest.raises(RuntimeError, match="lost"):
        lose_the_device()
    stored = open_store(tmp_path / "a.zarr")
    assert stored.steps.tolist() == [0, 1]
    assert stored.small("lr")[1] == 0.25
    assert len(stored.anchors) == 0


def test_the_plain_step_reads_the_rate_from_the_device_too():
    """A graph has it in float32; one from the host would be rounded otherwise."""
    config = load_config(overrides=[*SMALL, "train.device=cpu", "train.threads=1"])
    plain, graphed = build(config), build(config)
    step = replace(plain.update, device_rate=torch.zeros(()))
    run = GraphedStep(graphed.update, again)
    with plain.numerics():
        for k in range(4):
            step(k)
            run(k)
            rates = [t.optimizer.param_groups[0]["lr"] for t in (plain, graphed)]
            assert rates[0] is step.device_rate
            assert rates[0] == rates[1] == np.float32(plain.update.rate(k))
    assert np.array_equal(weights_of(plain), weights_of(graphed))


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("overrides", [*VARIANTS, ADAMW])
def test_graphs_equal_the_plain_step_on_cuda(overrides):
    config = load_config(overrides=[*SMALL, "train.device=cuda", *overrides])
    plain, graphed = build(config), build(config)
    with plain.numerics():
        for k in range(12):
            plain.update(k)
            graphed.step(k)
            np.testing.assert_array_equal(weights_of(plain), weights_of(graphed))


@pytest.mark.gpu
@needs_cuda
def test_recorded_runs_are_repeatable_and_resumable_on_cuda(tmp_path):
    config = load_config(overrides=[*SMALL, "train.device=cuda", "train.steps=80"])
    for name in ("a", "b"):
        train(config, str(tmp_path / f"{name}.zarr"))
    short = load_config(
        overrides=[*SMALL, "train.device=cuda", "train.steps=45", "optim.schedule=constant"]
    )
    long = load_config(
        overrides=[*SMALL, "train.device=cuda", "train.steps=80", "optim.schedule=constant"]
    )
    train(short, str(tmp_path / "c.zarr"))
    train(long, str(tmp_path / "c.zarr"), resume=True)
    train(long, str(tmp_path / "d.zarr"))
    for one, other in (("a", "b"), ("c", "d")):
        digests = [open_store(tmp_path / f"{n}.zarr").small("digest") for n in (one, other)]
        assert np.array_equal(*digests)


@pytest.mark.gpu
@needs_cuda
def test_nothing_waits_for_the_device(tmp_path):
    config = load_config(overrides=[*SMALL, "train.device=cuda"])
    training = build(config)
    with (
        training.numerics(),
        Recorder(
            tmp_path / "a.zarr", training.model, training.optimizer, steps="0:", fsync=False
        ) as recorder,
    ):
        try:
            for k in range(100):
                if k == 8:  # both graphs are made
                    # Of the whole process: the thread that writes must not wait by copying either.
                    torch.cuda.set_sync_debug_mode("error")
                result = training.step(k)
                recorder.step(loss=result.loss, accuracy=result.accuracy, lr=0.1, skipped=False)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(open_store(tmp_path / "a.zarr").steps) == 101
