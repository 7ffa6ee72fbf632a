"""Have the processes that hold parts of one model go through its recording in step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from ckptlab.errors import CkptlabError, RecordingError, WriteError

PATIENCE = timedelta(minutes=30)
"""How long ranks wait for one that is alive; one that dies is noticed at once."""

CONNECT_SECONDS = 50.0
"""How long ranks that have met wait for each other to connect."""

LEAVING_SECONDS = 20.0
"""How long a rank that leaves because of an error waits for the others to leave, too."""


_set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
"""Older versions of torch have only the private name; newer ones warn of it."""


class ApartError(RecordingError):
    """Ranks are not where they would have to be to commit together."""


@dataclass(frozen=True)
class Place:
    """Where a rank is in the loop; of all ranks, the largest of each number counts.

    `signal` is the number of one that came, `late` asks to commit what waits, `failed` and `error`
    tell that recording, or the loop, has failed; `leaving` and `staying` that the rank leaves, or
    goes on; `inexact` that its state is not that after `step` updates, `before` is −`step`.
    """

    step: int
    before: int
    signal: int = 0
    late: int = 0
    failed: int = 0
    error: int = 0
    leaving: int = 0
    staying: int = 0
    inexact: int = 0


class Together:
    """The ranks of the recording of a sharded model; all call the same methods in the same order.

    Those of `steps` from the thread that trains, those of `blocks` from the one that writes.
    """

    def __init__(self) -> None:
        self.steps, self.blocks = Channel(), Channel()
        self._is_broken = False

    @property
    def is_first(self) -> bool:
        """Whether this rank commits."""
        return self.steps.rank == 0

    def meet(self, place: Place, seconds: float | None = None) -> Place:
        """Return where all ranks are; RecordingError unless they are at one step.

        Once that failed, it fails at once, since the others do not answer any more.
        """
        if self._is_broken:
            raise ApartError("the ranks of this recording are no longer together")
        self._is_broken = True
        found = Place(*self.steps.largest(astuple(place), seconds))
        if found.leaving and found.staying:
            raise ApartError(
                "another rank has left the recording"
                if place.staying
                else "this rank leaves the recording while another one goes on"
            )
        if found.step != -found.before:
            raise ApartError(
                f"ranks are at different steps, from {-found.before} to {found.step}; call "
                "recorder.step() on every rank, once per update"
            )
        self._is_broken = False
        return found

    def close(self) -> None:
        """Let go of what connects the ranks, once all are done."""
        self.steps.close()
        self.blocks.close()


class Channel:
    """A group of all processes of its own, over the host, used by one thread at a time."""

    def __init__(self) -> None:
        with _heard():
            group: Any = dist.new_group(backend="gloo", timeout=timedelta(seconds=CONNECT_SECONDS))
            _set_timeout(PATIENCE, group)
        self._group = group
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()

    def largest(self, numbers: Sequence[int], seconds: float | None = None) -> list[int]:
        """Return the largest of each number, of all ranks."""
        values = torch.tensor(numbers, dtype=torch.int64)
        with _heard():
            work: Any = dist.all_reduce(values, dist.ReduceOp.MAX, self._group, async_op=True)
            work.wait(PATIENCE if seconds is None else timedelta(seconds=seconds))
        return [int(value) for value in values]

    def close(self) -> None:
        """Let go of the group, once no rank needs it any more."""
        dist.destroy_process_group(self._group)

    def share(self, value: Any) -> Any:
        """Return the first rank's value."""
        held = [value]
        with _heard():
            dist.broadcast_object_list(held, 0, self._group)
        return held[0]

    def collect(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in order."""
        found: list[Any] = [None] * self.ranks
        with _heard():
            dist.all_gather_object(found, value, self._group)
        return found

    def do(self, work: Callable[[], Any]) -> list[Any]:
        """Do something on every rank; return to the first what all of them returned.

        If it fails anywhere, it fails everywhere: where it did with its own error.
        """
        error: CkptlabError | None = None
        result: Any = None
        try:
            result = work()
        except CkptlabError as found:
            error = found
        except Exception as found:
            error = WriteError(f"recording failed: {type(found).__name__}: {found}")
            error.__cause__ = found
        problems = self.collect(None if error is None else str(error))
        if error is not None:
            raise error
        for rank, problem in enumerate(problems):
            if problem is not None:
                raise WriteError(f"rank {rank}: {problem}")
        results: list[Any] = [None] * self.ranks if self.rank == 0 else []
        with _heard():
            dist.gather_object(result, results or None, 0, self._group)
        return results

    def exchange(
        self, values: npt.NDArray[np.float32], sent: list[int], received: list[int]
    ) -> npt.NDArray[np.float32]:
        """Send so many of the values to each rank, in order; return what comes from each."""
        out = torch.empty(sum(received), dtype=torch.float32)
        with _heard():
            dist.all_to_all_single(out, torch.from_numpy(values), received, sent, self._group)
        found: npt.NDArray[np.float32] = out.numpy()
        return found


def lost_rank(error: BaseException | None) -> RecordingError | None:
    """Return in one line what the loop's own exchange raised where another rank died, else None."""
    if isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    ):
        return _lost(error)
    return None


def _lost(error: BaseException) -> RecordingError:
    return RecordingError(
        f"rank {dist.get_rank()} lost another rank, which died or does not answer "
        f"({_reason(error)[:60].rstrip('. ')}); what was committed is kept: resume on all ranks"
    )


def _reason(error: BaseException) -> str:
    """Return what an error of torch says first, without the place in its source."""
    text = str(error)
    return text.partition("\n")[0].rpartition("] ")[2] or text


@contextlib.contextmanager
def _heard() -> Iterator[None]:
    """Turn what gloo raises where a rank does not answer into one line."""
    try:
        yield
    except RuntimeError as error:
        if "timed out" in _reason(error).lower():
            raise ApartError(
                f"rank {dist.get_rank()} waited in vain for another one, which is still in the loop"
            ) from error
        raise _lost(error) from error
