"""Draw random numbers as a hash of (seed, stream, counters, index), the same on every device.

There is no state: any draw of any step can be made again, in any order. A stream is a name, so that
draws for different purposes are independent. A counter may be a number on the device, whose value
is not known when a CUDA graph is made.

A key is the SplitMix64 hash of seed, stream and counters; draw number i of a key is the i-th output
of the SplitMix64 generator started there.

References
----------
Steele, Lea & Flood (2014), Fast Splittable Pseudorandom Number Generators, OOPSLA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import overload

import torch
import xxhash

Counter = int | torch.Tensor
"""A number, or one that lies on the device."""

Key = int | torch.Tensor
"""What the draws of one purpose depend on."""

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


@overload
def derived_seed(seed: int, stream: str, *counters: int) -> int: ...


@overload
def derived_seed(seed: int, stream: str, *counters: Counter) -> Key: ...


def derived_seed(seed: int, stream: str, *counters: Counter) -> Key:
    """Hash a seed, the name of a stream and counters (epoch, step) to one key in [0, 2**64).

    It also seeds a torch generator. If a counter is a tensor, the key is one of int64, of the same
    bits.
    """
    key: Key = _mix(seed & _MASK)
    for value in (xxhash.xxh3_64_intdigest(stream.encode()), *counters):
        mixed = _mixed(value) if isinstance(value, torch.Tensor) else _mix(value & _MASK)
        if isinstance(mixed, torch.Tensor) or isinstance(key, torch.Tensor):
            key = _mixed(_bits_of(key) ^ _bits_of(mixed))
        else:
            key = _mix(key ^ mixed)
    return key


def bits(key: Key, index: torch.Tensor) -> torch.Tensor:
    """Draw 64 random bits, the sign included, for each int64 in `index`, of any shape."""
    # SplitMix64 adds the odd constant once for each draw; `_mixed` adds it once itself.
    return _mixed(index * _signed(_GOLDEN) + _bits_of(key))


def integers(key: Key, index: torch.Tensor, high: int) -> torch.Tensor:
    """Draw whole numbers in [0, high), evenly to one part in 2**31 / high, for each of `index`."""
    return (_shifted(bits(key, index), 33) * high) >> 31


@dataclass(frozen=True, slots=True)
class Draw:
    """A whole number in [0, `high`) for every step and sample, of one seed and stream."""

    seed: int
    stream: str
    high: int

    def __call__(self, step: Counter, index: torch.Tensor) -> torch.Tensor:
        """Draw for samples, each at `step` or at its own if that has the shape of `index`."""
        return integers(derived_seed(self.seed, self.stream, step), index, self.high)

    def of(self, drawn: Drawn, step: Counter, index: torch.Tensor) -> torch.Tensor:
        """Return what was drawn before, or else draw it."""
        return drawn[self] if self in drawn else self(step, index)


Drawn = Mapping[Draw, torch.Tensor]
"""Numbers that were drawn before for the samples of a batch."""


def uniform(key: Key, index: torch.Tensor) -> torch.Tensor:
    """Draw float32 multiples of 2**-24 in [0, 1) for each of `index`."""
    return _shifted(bits(key, index), 40).to(torch.float32) * 2.0**-24


def permutation(key: int, size: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Draw an order of 0 … size − 1: the indices sorted by their random bits."""
    return torch.argsort(bits(key, torch.arange(size, device=device)), stable=True)


def _mix(value: int) -> int:
    z = (value + _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * _FIRST) & _MASK
    z = ((z ^ (z >> 27)) * _SECOND) & _MASK
    return z ^ (z >> 31)


def _mixed(value: Key) -> torch.Tensor:
    """Do as `_mix` does with a tensor of int64, whose sums and products wrap around."""
    z = torch.as_tensor(value + _signed(_GOLDEN))
    z = (z ^ _shifted(z, 30)) * _signed(_FIRST)
    z = (z ^ _shifted(z, 27)) * _signed(_SECOND)
    return z ^ _shifted(z, 31)


def _bits_of(value: Key) -> Key:
    return value if isinstance(value, torch.Tensor) else _signed(value & _MASK)


def _signed(value: int) -> int:
    """Return the int64 of the same 64 bits."""
    return value - 2**64 if value >= 2**63 else value


def _shifted(z: torch.Tensor, places: int) -> torch.Tensor:
    """Shift right and fill with zeros; torch's int64 shift fills with the sign."""
    return torch.bitwise_and(z >> places, 2 ** (64 - places) - 1)
