"""Read steps, step ranges and schedules as users write them.

A schedule is a union of half-open ranges ``A:B[:stride]``; an omitted end is the end of the run.
``log:N`` takes N steps a decade.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.errors import StepError

_STEP = re.compile(r"(\d+(?:\.\d+)?)(it|ep)?\Z")
_ACCEPTED = "accepted: 500, 500it, 2ep, ranges A:B or A:B:STRIDE, log:N, separated by commas"


def parse_step(text: str | int, steps_per_epoch: int | None = None) -> int:
    """Read one step, ``500``, ``500it`` or ``2ep``, as a number of optimizer updates.

    Raises StepError if it is none of these, or is in epochs without `steps_per_epoch`.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise StepError(f"step {text} is negative; steps count from 0")
        return text
    match = _STEP.match(str(text).strip())
    if match is None:
        raise StepError(f"{text!r} is not a step; accepted: 500, 500it or 2ep")
    number, unit = match.groups()
    if unit == "ep":
        if steps_per_epoch is None:
            raise StepError(
                f"step {text!r} is in epochs, and the length of an epoch is not known; "
                "write it in steps, or give steps_per_epoch="
            )
        return round(float(number) * steps_per_epoch)
    if "." in number:
        raise StepError(f"{text!r} is not a whole number of steps")
    return int(number)


@dataclass(frozen=True, slots=True)
class StepRange:
    """Every `stride`-th step from `start` on, before `stop`; None means to the end of the run."""

    start: int
    stop: int | None
    stride: int = 1

    def __contains__(self, step: int) -> bool:
        if step < self.start or (self.stop is not None and step >= self.stop):
            return False
        return (step - self.start) % self.stride == 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which steps are recorded: the union of `ranges` and, for each N, of N steps a decade.

    Two schedules with one `text` are the same. N a decade are step 0 and round(10**(i/N)).
    """

    text: str
    ranges: tuple[StepRange, ...]
    per_decade: tuple[int, ...] = ()

    def __contains__(self, step: int) -> bool:
        return any(step in r for r in self.ranges) or any(_on_log(step, n) for n in self.per_decade)

    @property
    def end(self) -> int | None:
        """First step beyond the last that can be recorded; None if there is no such end."""
        stops = [r.stop for r in self.ranges]
        if self.per_decade or None in stops:
            return None
        return max((stop for stop in stops if stop is not None), default=0)

    def holds(self, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return which of some increasing steps, shape (steps,), are scheduled.

        Takes the same time however far apart they are.
        """
        held = np.zeros(len(steps), np.bool_)
        for r in self.ranges:
            before = True if r.stop is None else steps < r.stop
            held |= (steps >= r.start) & before & ((steps - r.start) % r.stride == 0)
        if self.per_decade and len(steps):
            logarithmic = Schedule(self.text, (), self.per_decade)
            held |= np.isin(steps, logarithmic.steps(int(steps[-1]) + 1))
        return held

    def steps(self, end: int) -> npt.NDArray[np.int64]:
        """Return the scheduled steps before `end`, increasing, shape (steps,)."""
        parts: list[npt.NDArray[Any]] = [
            np.arange(r.start, end if r.stop is None else min(r.stop, end), r.stride)
            for r in self.ranges
        ]
        for n in self.per_decade:
            exponents = np.arange(0, n * max(np.log10(max(end, 1)), 0) + 1)
            parts.append(np.unique(np.round(10 ** (exponents / n))))
            parts.append(np.zeros(1))
        steps = (
            np.unique(np.concatenate(parts)).astype(np.int64) if parts else np.zeros(0, np.int64)
        )
        return steps[steps < end]


def parse_schedule(text: str, steps_per_epoch: int | None = None) -> Schedule:
    """Read a schedule such as ``"0:2000, 2000:20000:100"``: ranges, single steps or ``log:N``.

    Raises StepError if a part is malformed or empty, or in epochs without `steps_per_epoch`.
    """
    ranges: list[StepRange] = []
    per_decade: list[int] = []
    for part in (p.strip() for p in str(text).split(",")):
        if part.startswith("log:"):
            count = part[4:].strip()
            if not count.isdigit() or int(count) < 1:
                raise StepError(f"{part!r}: log:N needs a whole N of at least 1 (steps a decade)")
            per_decade.append(int(count))
        else:
            ranges.append(parse_range(part, steps_per_epoch))
    return Schedule(str(text), tuple(ranges), tuple(per_decade))


def parse_range(text: str, steps_per_epoch: int | None = None) -> StepRange:
    """Read one half-open range ``A:B[:stride]``, or one step as a range of one.

    ``A`` defaults to 0 and ``B`` to the end. Raises StepError if it is malformed or holds no step.
    """
    pieces = [piece.strip() for piece in text.split(":")]
    if not text.strip() or len(pieces) > 3:
        raise StepError(f"{text!r} is not a step range; {_ACCEPTED}")
    if len(pieces) == 1:
        step = parse_step(pieces[0], steps_per_epoch)
        return StepRange(step, step + 1)
    start = parse_step(pieces[0], steps_per_epoch) if pieces[0] else 0
    stop = parse_step(pieces[1], steps_per_epoch) if pieces[1] else None
    stride = parse_step(pieces[2], steps_per_epoch) if len(pieces) == 3 and pieces[2] else 1
    if stride < 1:
        raise StepError(f"{text!r}: the stride must be at least 1")
    if stop is not None and stop <= start:
        raise StepError(f"{text!r} holds no step: a range is half-open, its end must be larger")
    return StepRange(start, stop, stride)


def _on_log(step: int, per_decade: int) -> bool:
    if step < 1:
        return step == 0
    nearest = round(per_decade * float(np.log10(step)))
    near = np.array([max(nearest - 1, 0), nearest, nearest + 1])
    return bool(np.any(np.round(10 ** (near / per_decade)) == step))
