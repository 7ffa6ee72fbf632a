"""Choose the codec a recording can afford: compression time measured against step time."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np

from ckptlab.record.defaults import BUDGET
from ckptlab.store.format.codecs import CODECS, PUBLIC_CODECS
from ckptlab.store.format.zarr_metadata import CHUNK_PARAMETERS


def choose_codec(
    parameters: int, step_seconds: float, *, threads: float, budget: float = BUDGET
) -> str:
    """Return the densest codec that keeps up with a step, or the cheapest if none does.

    `threads` counts the cores that compress and that training does not need. With 0, compression
    takes its time from training, and may cost the share `budget` of a step.
    """
    allowed = step_seconds * (threads or budget)
    *compressing, cheapest = PUBLIC_CODECS
    for name in compressing:
        if encode_seconds(parameters, codec=name) <= allowed:
            return name
    return cheapest


def encode_seconds(parameters: int, *, codec: str = "dense", steps: int = 32) -> float:
    """Time one core's compression of one snapshot, on weights that move as weights do.

    Returns seconds a snapshot, in blocks of `steps`, by the quicker of two measurements, which are
    made once in a process.
    """
    return _chunk_seconds(codec, steps) / steps * parameters / CHUNK_PARAMETERS


@cache
def _chunk_seconds(codec: str, steps: int) -> float:
    generator = np.random.default_rng(0)
    # Momentum 0.9 makes a step nine tenths of the one before.
    velocity = np.cumsum(generator.normal(size=(CHUNK_PARAMETERS, steps)), axis=1) * 1e-4
    chunk = (0.1 + np.cumsum(velocity, axis=1)).astype(np.float32)

    def once(_: int) -> float:
        began = time.perf_counter()
        CODECS[codec].compress(chunk)
        return time.perf_counter() - began

    # In a thread, as in the writer: in the main one, blosc takes every core.
    with ThreadPoolExecutor(1) as pool:
        return min(pool.map(once, range(2)))
