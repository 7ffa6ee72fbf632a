"""Tell which of several processes this one is, and have them agree on what is recorded."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import count
from typing import Any

import torch
import xxhash

from ckptlab.errors import ConfigError, RecordingError

MEETING_SECONDS, PATIENCE_SECONDS = 300.0, 10.0
"""How long ranks wait for each other to open a recorder, and after which time they say so."""

EACH = "give ranks='each' with a path for each rank to record them as runs of their own"

_meetings = count()


def rank() -> int:
    """Return the number of this process; 0 where it is the only one."""
    return torch.distributed.get_rank() if _is_distributed() else 0


def ranks() -> int:
    """Return how many processes there are."""
    return torch.distributed.get_world_size() if _is_distributed() else 1


def digest_parameters(parameters: Sequence[torch.Tensor]) -> str:
    """Return a hash of the values, the same wherever they lie."""
    digest = xxhash.xxh3_64()
    for parameter in parameters:
        values = parameter.detach().reshape(-1).contiguous().cpu()
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Peers:
    """The processes that open one recording together, of which the first writes it.

    They meet in the key-value store they were started with, not by a collective operation: a
    process that never comes is named, and none hangs.
    """

    def __init__(self) -> None:
        self._store = torch.distributed.distributed_c10d._get_default_store()
        self._prefix = f"ckptlab/{next(_meetings)}"
        self._compared = ranks() == 1

    def agree(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Exchange facts; return those of the first rank.

        ConfigError on all ranks, naming the first difference, if another has others.
        """
        verdict = f"{self._prefix}/verdict"
        if rank():
            self._store.set(f"{self._prefix}/{rank()}", json.dumps(facts))
            problem, first = json.loads(self._wait(verdict, 0))
        else:
            problem, first = "", dict(facts)
            for other in range(1, ranks()):
                theirs = json.loads(self._wait(f"{self._prefix}/{other}", other))
                problem = problem or _difference(other, theirs, first)
            self._store.set(verdict, json.dumps([problem, first]))
        if problem:
            raise ConfigError(problem)
        found: dict[str, Any] = first
        return found

    def compare(self, parameters: Sequence[torch.Tensor]) -> None:
        """Compare the parameters of all ranks after their first update, once, without waiting.

        RecordingError on the first rank if another trains other ones.
        """
        if self._compared:
            return
        key = f"{self._prefix}/updated"
        if not hasattr(self, "_digest"):
            self._digest = digest_parameters(parameters)
            self._store.set(f"{key}/{rank()}", self._digest)
        others = [] if rank() else [f"{key}/{other}" for other in range(1, ranks())]
        if not self._store.check(others or [f"{key}/0"]):
            return
        self._compared = True
        for other, name in enumerate(others, 1):
            if self._store.get(name).decode() != self._digest:
                raise RecordingError(
                    f"rank {other} has other weights than rank 0 after the first update, so they "
                    f"train networks of their own, of which one would be recorded; {EACH}, or wrap "
                    "the model in DistributedDataParallel"
                )

    def _wait(self, key: str, other: int) -> bytes:
        """Wait for what another rank says."""
        for seconds in (PATIENCE_SECONDS, MEETING_SECONDS - PATIENCE_SECONDS):
            try:
                self._store.wait([key], timedelta(seconds=seconds))
                return bytes(self._store.get(key))
            except RuntimeError:  # which the errors of every kind of store are
                what = f"rank {rank()} waits for rank {other} to open its recorder"
                if seconds == PATIENCE_SECONDS:
                    warnings.warn(what, stacklevel=7)
        raise RecordingError(
            f"{what} and gave up after {MEETING_SECONDS:.0f} s; open it on every rank, or give "
            "ranks='each' where a rank records alone"
        )


def _difference(other: int, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Describe the first difference between two ranks' facts; empty if there is none."""
    for name, value in ours.items():
        if theirs.get(name, value) == value:
            continue
        if name == "weights":
            return (
                f"rank {other} has other weights than rank 0; {EACH}, or wrap the model in "
                "DistributedDataParallel before the recorder opens"
            )
        if name == "tensors":
            return f"rank {other} has a model of other tensors than rank 0; {EACH}"
        return (
            f"{name}: rank {other} has {theirs[name]!r} and rank 0 {value!r}; give every rank the "
            f"same, or {EACH}"
        )
    return ""


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
