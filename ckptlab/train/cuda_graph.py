"""Do the update as a CUDA graph: one launch instead of some thousand.

A graph holds one batch size and one task. What differs from update to update, the samples, the step
and the learning rate, lies in tensors on the device that are filled before it runs. Nothing here
waits for the device except the making of a graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ckptlab.train.step import StepResult, TrainingStep
from ckptlab.train.tasks.task import Task

WARM_UPS = 3
"""Updates done before a graph is made, so that libraries have chosen and allocated by then."""

Update = Callable[[], StepResult]


@dataclass(frozen=True, slots=True, eq=False)
class _Graph:
    """A graph, the index it reads and the gradients it leaves."""

    replay: Update
    index: torch.Tensor
    gradients: tuple[torch.Tensor | None, ...]


class GraphedStep:
    """Does what a `TrainingStep` does, from graphs made as they are needed.

    `make` takes a function that does an update and returns one that repeats it; `CudaGraphs` by
    default.
    """

    def __init__(self, step: TrainingStep, make: Callable[[Update], Update] | None = None) -> None:
        self._step = step
        self._make = make or CudaGraphs()
        device = next(step.model.parameters()).device
        self._counter = torch.zeros((), dtype=torch.int64, device=device)
        self._rate = torch.zeros((), device=device)
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._last: _Graph | None = None

    def __call__(self, step: int) -> StepResult:
        """Do the update from `step` to `step` + 1; the gradients stay in place.

        The returned tensors hold until the next update.
        """
        task, index = self._step.task.at(step), self._step.order.batch_at(step)
        self._counter.fill_(step)
        self._rate.fill_(self._step.rate(step))
        key = (len(index), id(task))
        if key not in self._graphs:
            self._graphs[key] = self._graph(task, index)
        graph = self._graphs[key]
        graph.index.copy_(index)
        result = graph.replay()
        if graph is not self._last:
            # Each graph leaves its gradients in tensors of its own.
            parameters = self._step.model.parameters()
            for parameter, gradient in zip(parameters, graph.gradients, strict=True):
                parameter.grad = gradient
            self._last = graph
        return result

    def _graph(self, task: Task, index: torch.Tensor) -> _Graph:
        step, held = self._step, index.clone()
        for group in step.optimizer.param_groups:
            group["lr"] = self._rate

        def update() -> StepResult:
            return step.update(task, held, self._counter)

        with _as_before(step.model, step.optimizer), _side_stream(held.device):
            for _ in range(WARM_UPS):
                update()
        replay = self._make(update)
        gradients = tuple(parameter.grad for parameter in step.model.parameters())
        return _Graph(replay, held, gradients)


class CudaGraphs:
    """Makes CUDA graphs that share their memory, since one of them runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, update: Update) -> Update:
        """Record an update without doing it; returns a function that does it.

        The update waits for nothing, and finds and leaves everything in the same tensors.
        """
        graph = torch.cuda.CUDAGraph()
        # Other threads go on copying recorded blocks meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = update()

        def replay() -> StepResult:
            graph.replay()
            return result

        return replay


@contextlib.contextmanager
def _as_before(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Put weights, buffers and the optimizer's state back; what was not there becomes zero.

    An optimizer whose state is zero goes on as one without state: no momentum, averages of no
    update.
    """
    live = [*model.parameters(), *model.buffers()]
    held = [tensor.detach().clone() for tensor in live]
    states = {
        (id(p), name): value.clone()
        for p, state in optimizer.state.items()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    yield
    with torch.no_grad():
        for tensor, value in zip(live, held, strict=True):
            tensor.copy_(value)
        for p, state in optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    before = states.get((id(p), name))
                    value.zero_() if before is None else value.copy_(before)


@contextlib.contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    """Work on a stream of its own, as the making of a graph asks for, where there are streams."""
    if device.type != "cuda":
        yield
        return
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        yield
    torch.cuda.current_stream(device).wait_stream(side)
