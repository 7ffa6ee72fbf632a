"""Set where and how exactly a training computes: device, threads, determinism, precision.

These are process-wide switches of torch; `numerics` sets them for a block and restores them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ckptlab.errors import ConfigError
from ckptlab.train.sections import TrainConfig


def resolve_device(config: TrainConfig) -> torch.device:
    """Return the CPU or the current CUDA device; ConfigError if CUDA is asked for and absent."""
    # CUDA reads it when it starts: streams beyond the 8 connections it has else wait for others.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise ConfigError("train.device='cuda': there is no CUDA device; use cpu or auto.")
    if config.device == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def resolve_threads(config: TrainConfig) -> int:
    """Return the number of CPU threads: as set, or what torch uses now."""
    return config.threads or torch.get_num_threads()


@contextlib.contextmanager
def numerics(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Set threads, determinism and precision for a block, and restore them at its end."""
    before = _Switches.read()
    try:
        if config.deterministic and device.type == "cuda":
            # cuBLAS reads this when it starts; without it deterministic mode raises.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        _Switches(
            threads=resolve_threads(config),
            determinism=2 if config.deterministic else 0,  # refuse what is not, or take any
            # Filling new memory with NaN finds bugs in kernels, and costs time at every step.
            fill=False,
            benchmark=False,
            tf32=(config.precision == "tf32",) * len(_TF32),
        ).write()
        yield
    finally:
        before.write()


class _Tf32(NamedTuple):
    """Whether some kernels may round to TF32: `allow_tf32` of `flags`, and its newer spelling.

    torch refuses to read the older one where the newer was set.
    """

    flags: Any
    precision: Any

    def read(self) -> bool | str:
        try:
            return bool(self.flags.allow_tf32)
        except RuntimeError:
            return str(self.precision.fp32_precision)

    def write(self, value: bool | str) -> None:
        if isinstance(value, str):
            self.precision.fp32_precision = value
        else:
            self.flags.allow_tf32 = value


_CUDA, _CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn
_TF32 = _Tf32(_CUDA, _CUDA), _Tf32(_CUDNN, getattr(_CUDNN, "conv", None))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Switches:
    """The process-wide switches of torch that `numerics` sets."""

    threads: int
    determinism: int
    fill: bool
    benchmark: bool
    tf32: tuple[bool | str, ...]

    @classmethod
    def read(cls) -> _Switches:
        return cls(
            threads=torch.get_num_threads(),
            determinism=torch.get_deterministic_debug_mode(),
            # The module makes this a property at run time, which type checkers cannot see.
            fill=torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
            benchmark=torch.backends.cudnn.benchmark,
            tf32=tuple(switch.read() for switch in _TF32),
        )

    def write(self) -> None:
        torch.set_num_threads(self.threads)
        # `use_deterministic_algorithms` sets the same, and loads the compiler besides.
        torch.set_deterministic_debug_mode(self.determinism)
        torch.utils.deterministic.fill_uninitialized_memory = self.fill  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = self.benchmark
        for switch, value in zip(_TF32, self.tf32, strict=True):
            switch.write(value)
