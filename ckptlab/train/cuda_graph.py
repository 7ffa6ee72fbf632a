"""Do the update as a CUDA graph: one launch instead of some thousand.

A graph holds one batch size and one stage. What differs from update to update, the samples, what is
drawn for them, the step and the learning rate, lies in tensors on the device that are filled before
it runs. Nothing here waits for the device except the making of a graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from ckptlab.problems.examples import Stage
from ckptlab.record.pipeline.graphs import CudaGraphs, warming_up
from ckptlab.train.step import StepResult, TrainingStep

WARM_UPS = 3
"""Updates done before a graph is made, so that libraries have chosen and allocated by then."""

Update = Callable[[], StepResult]


@dataclass(frozen=True, slots=True, eq=False)
class _Graph:
    """A graph, the samples and draws it reads and the gradients it leaves."""

    replay: Update
    drawn: torch.Tensor
    gradients: tuple[torch.Tensor | None, ...]


class GraphedStep:
    """Does what a `TrainingStep` does, from graphs made as they are needed.

    `make` takes a function that does an update and returns one that repeats it; `CudaGraphs` by
    default.
    """

    def __init__(self, step: TrainingStep, make: Callable[[Update], Update] | None = None) -> None:
        device = next(step.model.parameters()).device
        if step.device_rate is None:
            step = replace(step, device_rate=torch.zeros((), device=device))
        self._step = step
        self._make = make or CudaGraphs()
        self._counter = torch.zeros((), dtype=torch.int64, device=device)
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._last: _Graph | None = None

    def __call__(self, step: int) -> StepResult:
        """Do the update from `step` to `step` + 1; the gradients stay in place.

        The returned tensors hold until the next update.
        """
        stage = self._step.problem.train.at(step)
        drawn = self._step.drawn_at(stage, step)
        self._counter.fill_(step)
        self._step.set_rate(step)
        key = (drawn.shape[1], id(stage))
        if key not in self._graphs:
            self._graphs[key] = self._graph(stage, drawn)
        graph = self._graphs[key]
        graph.drawn.copy_(drawn)
        result = graph.replay()
        if graph is not self._last:
            # Each graph leaves its gradients in tensors of its own.
            parameters = self._step.model.parameters()
            for parameter, gradient in zip(parameters, graph.gradients, strict=True):
                parameter.grad = gradient
            self._last = graph
        return result

    def _graph(self, stage: Stage, drawn: torch.Tensor) -> _Graph:
        step, held = self._step, drawn.clone()

        def update() -> StepResult:
            return step.update(stage, held, self._counter)

        with _as_before(step.model, step.optimizer), warming_up(held.device):
            for _ in range(WARM_UPS):
                update()
        replay = self._make(update)
        gradients = tuple(parameter.grad for parameter in step.model.parameters())
        return _Graph(replay, held, gradients)


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
