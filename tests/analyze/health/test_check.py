from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ckptlab
from benchmarks.runs import walk as benchmark_walk
from ckptlab.analyze.health.check import check_health
from ckptlab.errors import ConfigError, StepError
from ckptlab.run import open_run
from tests.analyze.health.made import Made, check, walk
from tests.trained import points, seeded, train_tiny

MLP = ("model.name=mlp", "train.batch_size=32")


def wide_network():
    return seeded(lambda: nn.Sequential(nn.Linear(5, 300), nn.Tanh(), nn.Linear(300, 40)))


def record_loop(path, model, *, steps=60, rate=lambda step: 0.1, schedule="0:", dtype=None):
    """Record mini-batch training with momentum at a rate by step."""
    model = model.to(dtype) if dtype else model
    x, y = points(200, classes=40)
    x = x.to(dtype) if dtype else x
    optimizer = torch.optim.SGD(model.parameters(), lr=1, momentum=0.9)
    draw = torch.Generator().manual_seed(0)
    with ckptlab.Recorder(
        path, model, optimizer, steps=schedule, total_steps=steps, fsync=False
    ) as recorder:
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = rate(step)
            batch = torch.randint(0, 200, (16,), generator=draw)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]).float(), y[batch]).backward()
            optimizer.step()
            recorder.step()
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A healthy run whose first layers are wide enough to have a direction."""
    return record_loop(tmp_path_factory.mktemp("health") / "run.zarr", wide_network())


@pytest.fixture
def healthy(trained):
    """Its snapshots, and a step between."""
    run = open_run(trained)
    values = np.array([run.snapshot(int(step)) for step in run.steps])
    series = Made(run.steps[::2].copy(), values[::2], list(run.layout.tensors))
    series.between = values[1::2]
    return series


def five_clean_series(folder):
    yield train_tiny(folder / "digits.zarr", *MLP, "train.steps=60")
    benchmark_walk(folder / "walk.zarr", 40, 3000)
    yield folder / "walk.zarr"
    yield train_tiny(folder / "log.zarr", *MLP, "train.steps=200", "record.steps=log:4")
    model = wide_network()
    yield record_loop(folder / "bf16.zarr", model, dtype=torch.bfloat16)
    yield record_loop(
        folder / "decay.zarr",
        wide_network(),
        rate=lambda step: 0.2 * min((step + 1) / 10, 1) * 0.5 * (1 + np.cos(np.pi * step / 60)),
    )


def test_nothing_is_found_in_five_clean_series(tmp_path):
    for path in five_clean_series(tmp_path):
        found = check_health(path)
        assert found.ok, str(found)
        assert found.steps == len(open_run(path).steps)


RATES = {
    "constant": lambda step, last: 1e-3,
    "warm-up and cosine": lambda step, last: (
        1e-3 * min((step + 1) / 10, 1) * (0.5 + 0.5 * np.cos(np.pi * step / (last + 1)))
    ),
    "decades": lambda step, last: 1e-3 * 10.0 ** -(3 * step // (last + 1)),
    "restarts": lambda step, last: 1e-3 * (0.501 + 0.5 * np.cos(np.pi * (step % 20) / 20)),
}
SPACINGS = {
    "dense": range(40),
    "even": range(0, 200, 7),
    "log": [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
    "log, then even": [0, 1, 2, 4, 8, 16, 32, 64, *range(100, 500, 50)],
}


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    momentum=st.sampled_from([0.0, 0.9, 0.99]),
    drift=st.sampled_from([0.0, 0.3, 3.0]),
    rate=st.sampled_from(sorted(RATES)),
    steps=st.sampled_from(sorted(SPACINGS)),
    cut=st.sampled_from([0, 13, 16]),
    width=st.integers(1, 9),
)
def test_nothing_is_found_in_walks(seed, momentum, drift, rate, steps, cut, width):
    series = walk(
        [*SPACINGS[steps]], seed=seed, momentum=momentum, drift=drift, rate=RATES[rate], cut=cut
    )
    series.width = width
    found = check(series)
    assert found.ok, str(found)


def only(found, rule, steps, tensors=None):
    """Assert that all findings are of a rule, steps and tensors."""
    assert found.findings, "nothing was found"
    for one in found.findings:
        assert (one.rule, set(one.steps) <= set(steps)) == (rule, True), str(found)
        if tensors is not None:
            assert one.tensors == tensors, str(found)


WHOLE = ()


def test_a_first_snapshot_that_equals_the_next(healthy):
    series = healthy.damaged()
    series.values[0] = series.values[1]
    only(check(series), "identical", (0, 2), WHOLE)


def test_a_first_snapshot_that_equals_a_later_one(healthy):
    series = healthy.damaged()
    series.values[0] = series.values[2]
    only(check(series), "repeated", (0, 4), WHOLE)


def test_a_stretch_of_identical_snapshots(healthy):
    series = healthy.damaged()
    series.values[:12] = series.values[0]
    only(check(series), "identical", range(0, 23, 2), WHOLE)


def test_two_steps_that_carry_the_last_first_shard(healthy):
    series = healthy.damaged()
    shard = series.stretch("0.weight", "0.bias")
    for k in (9, 20):
        series.values[k, shard] = series.values[-1, shard]
    found = check(series)
    only(found, "repeated", (18, 40, 60), ("0.weight", "0.bias"))


def test_a_step_that_is_another_of_the_series(healthy):
    series = healthy.damaged()
    series.values[7] = series.values[25]
    only(check(series), "repeated", (14, 50), WHOLE)


def test_a_step_that_is_near_a_far_one(healthy):
    series = healthy.damaged()
    series.values[7] = healthy.between[25]
    only(check(series), "outlier", (14,), WHOLE)
    assert "nearer to step 5" in check(series).findings[0].evidence


def test_a_step_of_another_run(healthy):
    series = healthy.damaged()
    rng = np.random.default_rng(1)
    series.values[15] = rng.permutation(series.values[15])
    only(check(series), "outlier", (30,), WHOLE)


def test_a_series_that_goes_on_from_another_run(healthy):
    series = healthy.damaged()
    order = np.random.default_rng(1).permutation(series.values.shape[1])
    series.values[15:] = series.values[15:, order]
    only(check(series), "jump", (28, 30), WHOLE)


def test_a_run_that_does_not_descend_from_its_own_first_step(healthy):
    series = healthy.damaged()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        other = nn.Sequential(nn.Linear(5, 300), nn.Tanh(), nn.Linear(300, 40))
    series.values[0] = nn.utils.parameters_to_vector(other.parameters()).detach().numpy()
    only(check(series), "foreign", (0, 2))


def test_copies_that_differ_in_the_signs_of_zeros_only(healthy):
    series = healthy.damaged()
    series.values[10:12, :4] = 0
    series.values[11] = series.values[10]
    series.values[11, :3] = -0.0
    found = check(series)
    only(found, "identical", (20, 22), WHOLE)
    assert "3 zeros differ in sign" in found.findings[0].evidence


def test_values_that_are_no_numbers(healthy):
    series = healthy.damaged()
    at = series.stretch("2.weight")
    series.values[4, at[:3]] = np.nan
    series.values[9, at[5]] = np.inf
    only(check(series), "not-finite", (8, 18), ("2.weight",))


def test_rows_that_became_zero(healthy):
    series = healthy.damaged()
    at = series.stretch("2.weight").reshape(40, 300)
    series.values[6, at[:20].ravel()] = 0
    found = check(series)
    only(found, "zero-rows", (12,), ("2.weight",))
    assert "20 rows" in found.findings[0].evidence
    series.values[:, at[3]] = 0
    said = str(check(series))
    assert "1 of 40 rows are all zero at every step" in said
    series.pruned = True
    assert "zero-rows" not in str(check(series))


def test_a_tensor_that_never_moves(healthy):
    series = healthy.damaged()
    at = series.stretch("0.weight")
    series.values[:, at] = series.values[0, at]
    only(check(series), "still", series.steps, ("0.weight",))


def test_what_the_run_itself_explains_is_no_finding(tmp_path):
    def rate(step):
        return 0.0 if step in (0, 30) else 0.1

    path = record_loop(tmp_path / "run.zarr", wide_network(), rate=rate)
    run = open_run(path)
    # At a rate of 0 nothing moves, whatever the momentum.
    assert np.array_equal(run.snapshot(0), run.snapshot(1))
    assert check_health(path).ok


@settings(max_examples=15, deadline=None)
@given(width=st.integers(1, 40), memory=st.sampled_from([2**23, 2**24, 2**28]))
def test_findings_do_not_depend_on_how_it_is_read(width, memory):
    series = walk(range(30))
    shard = series.stretch("fc2.weight")
    series.values[4, shard] = series.values[20, shard]
    series.values[7, series.stretch("embed.weight")[5]] = np.nan
    series.values[3] = series.values[2]
    expected = check(series).findings
    assert [one.rule for one in expected] == ["identical", "repeated", "not-finite"]
    series.width = width
    assert check(series, memory).findings == expected


def test_too_little_memory_and_no_snapshot(healthy):
    with pytest.raises(ConfigError, match="too little to look at 31 snapshots; give at least"):
        check(healthy, 10)
    series = healthy.damaged()
    series.steps = series.steps[:0]
    with pytest.raises(StepError, match="holds no snapshot yet"):
        check(series)
