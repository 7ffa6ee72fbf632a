"""Metrics of users: of snapshots, of chunks and of a model, each against NumPy or torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import ckptlab
from ckptlab.analyze.registry.metrics import METRICS
from ckptlab.cli import main
from ckptlab.errors import ConfigError, PluginError, UnknownNameError
from tests.analyze.recordings import Made, network
from tests.forks import run_forked

PLUGIN = '''
import numpy as np

import ckptlab


@ckptlab.metric(name="largest-weight", unit="weight", kind="snapshot")
def largest_weight(weights):
    """Largest absolute weight."""
    return np.abs(weights).max()
'''


@pytest.fixture(autouse=True)
def _forget():
    """Take out what a test registers."""
    before = dict(METRICS._entries), dict(METRICS._origins)
    yield
    METRICS._entries, METRICS._origins = before


def brute(made: Made, by: str, function, keep=None) -> dict[str, np.ndarray]:
    found = {}
    for name, rows in made.groups(by, ("conv", "linear")).items():
        chosen = rows if keep is None else rows & keep
        found[name] = np.array([function(w) for w in made.weights[chosen].T])
    return found


@pytest.mark.parametrize("by", ["network", "layer", "tensor"])
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_a_snapshot_metric_equals_numpy(made: Made, by: str, scheduler: str) -> None:
    @ckptlab.metric(unit="weight")
    def largest(weights):
        """Largest absolute weight."""
        assert weights.dtype == np.float32
        assert weights.ndim == 1
        return np.abs(weights).max()

    result = ckptlab.open_run(made.path).analyze(largest, by=by, scheduler=scheduler)
    assert result.name == "largest"
    assert result.attrs["units"] == "weight"
    for name, values in brute(made, by, lambda w: np.abs(w).max()).items():
        got = result if by == "network" else result.sel({by: name})
        np.testing.assert_array_equal(got, values)
    from_dataset = xr.open_zarr(made.path).ckpt.largest(by=by)
    np.testing.assert_array_equal(from_dataset, result)


def test_options_steps_and_masks_apply(made: Made, mask: np.ndarray) -> None:
    @ckptlab.metric(name="power-sum")
    def power_sum(weights, power: int = 2, scale: float = 1.0, how: Literal["sum", "mean"] = "sum"):
        """Sum of a power of the weights.

        Parameters
        ----------
        power : int
            The exponent.
        """
        return scale * getattr(np, how)(weights.astype(float) ** power)

    assert METRICS["power-sum"].options["power"].help == "The exponent."
    run = ckptlab.open_run(made.path)
    result = run.analyze("power-sum", power=4, scale=0.5, how="mean", steps="5:9", mask=mask)
    expected = brute(made, "network", lambda w: 0.5 * (w.astype(float) ** 4).mean(), mask)
    np.testing.assert_allclose(result, expected["network"][5:9], rtol=1e-12)
    with pytest.raises(ConfigError, match=r"power 1\.5 of power-sum must be a whole number"):
        run.analyze("power-sum", power=1.5)
    with pytest.raises(UnknownNameError, match="Did you mean 'mean'"):
        run.analyze("power-sum", how="meen")


def test_shaped_metrics_get_tensors(made: Made) -> None:
    @ckptlab.metric(name="spectral", shaped=True, dims=("rank",))
    def spectral(weights):
        """Two largest singular values."""
        return np.linalg.svd(weights.reshape(len(weights), -1), compute_uv=False)[:2]

    result = ckptlab.open_run(made.path).analyze(spectral, steps="0:3")
    assert result.dims == ("tensor", "step", "rank")
    rows = made.tensor == made.names.index("out.weight")
    for k in range(3):
        values = np.linalg.svd(made.weights[rows, k].reshape(3, 120), compute_uv=False)[:2]
        np.testing.assert_allclose(result.sel(tensor="out.weight")[k], values, rtol=1e-5)
    run = ckptlab.open_run(made.path)
    np.testing.assert_array_equal(run.analyze(spectral, steps="0:3", by="tensor"), result)
    with pytest.raises(ConfigError, match="by=layer: spectral is a metric of single tensors"):
        run.analyze(spectral, by="layer")


def test_a_reduce_metric_equals_numpy(made: Made) -> None:
    @ckptlab.metric(
        name="spread",
        kind="reduce",
        combine={"low": "min", "high": "max", "total": "sum"},
        finalize=lambda p: (p["high"] - p["low"]) / p["total"],
    )
    def spread(weights):
        """Range over the sum of magnitudes."""
        return {
            "low": weights.min(),
            "high": weights.max(),
            "total": np.abs(weights).sum(dtype=float),
        }

    result = ckptlab.open_run(made.path).analyze(spread, by="layer")
    expected = brute(made, "layer", lambda w: np.ptp(w) / np.abs(w).sum(dtype=float))
    for name, values in expected.items():
        np.testing.assert_allclose(result.sel(layer=name), values, rtol=1e-6)


def test_a_model_metric_equals_torch(made: Made) -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, module in network().items():
                self.add_module(name, module)

        def forward(self, inputs):
            return self.out(torch.relu(self.big(inputs)))

    @ckptlab.metric(name="worst-loss", kind="model", unit="nats")
    def worst_loss(model, loss, data, quantile: float = 1.0):
        """Largest loss of a batch."""
        with torch.no_grad():
            values = [float(loss(model(inputs), targets)) for inputs, targets in data]
        return np.quantile(values, quantile)

    inputs, targets = torch.randn(40, 150), torch.randint(3, (40,))
    run = ckptlab.open_run(made.path)
    result = run.analyze(
        worst_loss, model=Chain(), data=(inputs, targets), steps="0:2", batch_size=20, samples=40
    )
    assert result.dims == ("step",)
    for k in range(2):
        model = Chain()
        model.load_state_dict(run.state_dict(k))
        losses = [
            nn.functional.cross_entropy(model(inputs[part]), targets[part]).item()
            for part in (slice(0, 20), slice(20, 40))
        ]
        assert result[k].item() == pytest.approx(max(losses), rel=1e-5)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(weights, power=2):\n    'X.'", "'power' has no type; write power: TYPE = DEFAULT"),
        ("def f(weights, power: int):\n    'X.'", "'power' has no default"),
        ("def f(weights, power: list = 2):\n    'X.'", "has the type list"),
        ("def f(weights, steps: int = 2):\n    'X.'", "'steps' belongs to every metric"),
        ("def f(weights):\n    pass", "needs a docstring"),
        ("def list(weights):\n    'X.'", "cannot be the name of a metric"),
        (
            "def cosine(weights):\n    'X.'",
            ".py:cosine registers the metric 'cosine', which ckptlab",
        ),
    ],
)
def test_what_cannot_be_a_metric_is_one_line_with_the_file(
    tmp_path: Path, source: str, message: str
) -> None:
    path = tmp_path / f"bad_{abs(hash(source))}.py"
    path.write_text(f"import ckptlab\n\n@ckptlab.metric()\n{source}\n")
    with pytest.raises(PluginError, match="bad_") as caught:
        ckptlab.load_plugin(path)
    assert message in str(caught.value)
    assert str(caught.value).count(str(tmp_path)) == 1
    assert "\n" not in str(caught.value)


def test_wrong_results_are_named(made: Made) -> None:
    @ckptlab.metric()
    def pair(weights):
        """Return two values."""
        return [0.0, 1.0]

    with pytest.raises(ConfigError, match=r"pair returned arrays of shape \(2,\); declare"):
        ckptlab.open_run(made.path).analyze(pair)
    with pytest.raises(ConfigError, match="is not a metric"):
        ckptlab.open_run(made.path).analyze(len)


def test_the_command_line_takes_files_and_references(made: Made, tmp_path: Path) -> None:
    plugin = tmp_path / "own_metrics_file.py"
    plugin.write_text(PLUGIN)
    options = [str(made.path), "--by", "layer", "--json", "--scheduler"]
    page = tmp_path / "x.html"
    named = ["--plugin", str(plugin), "analyze", "largest-weight", *options, "processes"]
    imported = ["analyze", "own_metrics_file:largest_weight", *options, "threads"]
    found = []
    for arguments in ([*named, "--plot", str(page)], imported):
        done = run_forked(main, arguments, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        found.append(np.array(json.loads(done.stdout)["data"]))
    assert "largest weight" in page.read_text()
    values = brute(made, "layer", lambda w: np.abs(w).max())
    for got in found:
        np.testing.assert_allclose(got, np.array(list(values.values())), rtol=1e-6)


def test_memory_is_bounded_or_refused(made: Made) -> None:
    run = ckptlab.open_run(made.path)
    for name in ("telemetry", "subspace", "gradient-noise"):
        with pytest.raises(ConfigError, match=r"memory=1MiB is too little .* at least \d+MiB"):
            run.analyze(name, memory="1MiB")
