from __future__ import annotations

from ckptlab.record.pipeline.calibrate import choose_codec, encode_seconds


def test_the_densest_codec_that_a_step_is_long_enough_for() -> None:
    dense = encode_seconds(10_000_000)
    fast = encode_seconds(10_000_000, codec="fast")
    assert 0 < 2 * fast < dense
    assert choose_codec(10_000_000, dense * 1e6, threads=0) == "dense"
    assert choose_codec(10_000_000, (dense * fast) ** 0.5, threads=1) == "fast"
    assert choose_codec(10_000_000, dense / 1e6, threads=0) == "raw"


def test_free_cores_count_as_whole_steps_and_others_as_the_budget() -> None:
    seconds = encode_seconds(10_000_000) * 10
    assert choose_codec(10_000_000, seconds, threads=1) == "dense"
    assert choose_codec(10_000_000, seconds, threads=0, budget=1e-6) == "raw"


def test_cost_grows_with_the_model() -> None:
    assert encode_seconds(2**24) > encode_seconds(2**14)
