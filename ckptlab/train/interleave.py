"""Run several trainings in one process, one update of each in turn, each on its own CUDA stream.

Small networks leave most of a GPU idle; the updates of others fill it. Each training computes as it
would alone, bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ckptlab.errors import ConfigError
from ckptlab.train.numerics import resolve_device
from ckptlab.train.trainer import Loop, Request, session

SHARED: tuple[str, ...] = ("device", "threads", "deterministic", "precision")
"""Settings of `train` that are those of a process."""


@dataclass(slots=True)
class _Turn:
    """One training among others."""

    number: int
    session: contextlib.AbstractContextManager[Loop]
    updates: Iterator[None]
    stream: torch.cuda.Stream | None


def train_together(requests: Sequence[Request]) -> list[Exception | None]:
    """Run trainings that `trainer.prepare` has checked; returns what each failed of, or None.

    A training that fails leaves the others running. ConfigError if their numerics differ.
    """
    if not requests:
        return []
    _require_alike(requests)
    requests = [replace(request, replicas=len(requests)) for request in requests]
    failures: list[Exception | None] = [None] * len(requests)
    turns: list[_Turn] = []
    with requests[0].numerics():
        try:
            for number, request in enumerate(requests):
                _guarded(failures, number, lambda r=request, n=number: turns.append(_begin(r, n)))
            while turns:
                turns = [turn for turn in turns if _take(turn, failures)]
        except BaseException as error:
            for turn in turns:
                _end(turn, error)
            raise
    return failures


def _begin(request: Request, number: int) -> _Turn:
    device = resolve_device(request.used.train)
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream(device))
    opened = session(request)
    with _on(stream):
        updates = opened.__enter__().run()
    return _Turn(number, opened, updates, stream)


def _take(turn: _Turn, failures: list[Exception | None]) -> bool:
    """Do one update; return whether there are more."""
    with _on(turn.stream):
        try:
            next(turn.updates)
            return True
        except StopIteration:
            _guarded(failures, turn.number, lambda: _end(turn, None))
        except Exception as error:
            failures[turn.number] = error
            _guarded(failures, turn.number, lambda failed=error: _end(turn, failed))
    return False


def _end(turn: _Turn, error: BaseException | None) -> None:
    with _on(turn.stream), contextlib.suppress(*([type(error)] if error is not None else [])):
        turn.session.__exit__(None if error is None else type(error), error, None)


def _guarded(failures: list[Exception | None], number: int, act: Any) -> None:
    try:
        act()
    except Exception as error:
        failures[number] = error


def _on(stream: torch.cuda.Stream | None) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext() if stream is None else torch.cuda.stream(stream)


def _require_alike(requests: Sequence[Request]) -> None:
    first = requests[0].used.train
    for request in requests[1:]:
        for key in SHARED:
            one, other = getattr(first, key), getattr(request.used.train, key)
            if one != other:
                raise ConfigError(
                    f"trainings at once need the same train.{key}; they have {one!r} and {other!r}"
                )
