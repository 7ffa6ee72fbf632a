from __future__ import annotations

import pytest

from ckptlab.record.pipeline import calibrate
from ckptlab.record.pipeline.calibrate import choose_codec, encode_seconds


@pytest.mark.parametrize(
    ("step_seconds", "threads", "budget", "expected"),
    [
        # Of a step, training gives away 3 %: 0.04 s for dense, 0.01 s for fast.
        (2.0, 0, 0.03, "dense"),
        (1.0, 0, 0.03, "fast"),
        (0.2, 0, 0.03, "raw"),
        (1.0, 0, 0.05, "dense"),
        # Cores that training does not need have the whole step.
        (0.05, 1, 0.03, "dense"),
        (0.02, 1, 0.03, "fast"),
        (0.02, 2, 0.03, "dense"),
        (0.001, 1, 0.03, "raw"),
    ],
)
def test_the_densest_codec_that_a_step_is_long_enough_for(
    monkeypatch, step_seconds, threads, budget, expected
) -> None:
    costs = {"dense": 0.04, "fast": 0.01}
    monkeypatch.setattr(calibrate, "encode_seconds", lambda parameters, *, codec: costs[codec])
    assert choose_codec(10_000, step_seconds, threads=threads, budget=budget) == expected


def test_the_time_is_that_of_one_snapshot_of_the_whole_model(monkeypatch) -> None:
    """On a clock that advances 8 s for every compression."""
    ticks = iter(range(0, 1000, 8))
    monkeypatch.setattr(calibrate.time, "perf_counter", lambda: next(ticks))
    chunks = 3.0
    parameters = int(chunks * calibrate.CHUNK_PARAMETERS)
    assert encode_seconds(parameters, steps=4) == 8 / 4 * chunks
