"""Gradients: what was recorded for each tensor, and what needs them all."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import ckptlab
from ckptlab.errors import ConfigError, StepError, StoreError
from tests.analyze.recordings import Made


@pytest.mark.parametrize("by", ["network", "layer", "tensor"])
@pytest.mark.parametrize("masked", [False, True])
def test_magnitude_equals_brute_force(made: Made, mask, by: str, masked: bool) -> None:
    options = {"by": by, "kinds": "conv,linear,bias", "mask": mask if masked else None}
    result = ckptlab.open_run(made.path).analyze("gradient-magnitude", **options)
    for k, chosen in enumerate(made.groups(by, ("conv", "linear", "bias")).values()):
        rows = chosen & mask if masked else chosen
        if not rows.any():
            continue
        g = made.gradients[rows].astype(float)
        pick = (lambda a: a) if by == "network" else (lambda a, k=k: a[k])
        # The recorded norms are float32.
        norm, mean = pick(result["gradient_norm"]), pick(result["gradient_mean_abs"])
        np.testing.assert_allclose(norm, np.sqrt((g**2).sum(axis=0)), rtol=1e-6)
        np.testing.assert_allclose(mean, np.abs(g).mean(axis=0), rtol=1e-6)
    assert np.isnan(result["gradient_norm"].sel(step=0)).all()
    assert not np.isnan(
        result["gradient_norm"].isel(step=slice(1, None), **({} if by == "network" else {by: 0}))
    ).any()


def test_a_mask_needs_the_gradients_themselves(wide: Made) -> None:
    run = ckptlab.open_run(wide.path)
    keep = np.ones(len(wide.tensor), bool)
    with pytest.raises(StoreError, match=r"needs the array `gradients`.*--arrays weights,gradien"):
        run.analyze("gradient-magnitude", mask=keep)
    with pytest.raises(StoreError, match=r"gradient-noise needs .*--arrays weights,gradients"):
        run.analyze("gradient-noise")


def test_some_parameters_need_the_gradients_themselves(made: Made, wide: Made) -> None:
    rows = slice(10, 9000)
    part = xr.open_zarr(made.path).isel(param=rows).ckpt.gradient_magnitude(kinds="all")
    g = made.gradients[rows].astype(float)
    np.testing.assert_allclose(part["gradient_norm"], np.sqrt((g**2).sum(axis=0)), rtol=1e-6)
    with pytest.raises(StoreError, match="of some parameters needs the array `gradients`"):
        xr.open_zarr(wide.path).isel(param=rows).ckpt.gradient_magnitude()


@pytest.mark.parametrize("by", ["network", "tensor"])
def test_noise_equals_brute_force(made: Made, by: str) -> None:
    result = ckptlab.open_run(made.path).analyze("gradient-noise", window=7, by=by)
    windows = np.arange(1, 71).reshape(10, 7)
    assert result["step"].values.tolist() == windows[:, -1].tolist()
    for k, rows in enumerate(made.groups(by, ("conv", "linear")).values()):
        g = made.gradients[rows].astype(float)[:, windows]
        variance = g.var(axis=2, ddof=1).sum(axis=0)
        signal = (g.mean(axis=2) ** 2).sum(axis=0) - variance / 7
        pick = (lambda a: a) if by == "network" else (lambda a, k=k: a[k])
        np.testing.assert_allclose(pick(result["gradient_variance"]), variance, rtol=1e-6)
        np.testing.assert_allclose(pick(result["gradient_signal"]), signal, rtol=1e-6)
        scale = np.where(signal > 0, variance / signal, np.nan)
        np.testing.assert_allclose(pick(result["gradient_noise_scale"]), scale, rtol=1e-6)


def test_noise_finds_what_was_put_in(made: Made) -> None:
    """The gradients are 0.3 times a common vector and unit noise: |G|² ≈ 0.09 n, variance n."""
    scale = ckptlab.open_run(made.path).analyze("gradient-noise", window=35)
    assert scale["gradient_noise_scale"].values == pytest.approx(1 / 0.09, rel=0.1)


def test_noise_refuses_short_windows(made: Made) -> None:
    run = ckptlab.open_run(made.path)
    with pytest.raises(ConfigError, match=r"window 1 .* must be a whole number >= 2"):
        run.analyze("gradient-noise", window=1)
    with pytest.raises(StepError, match="4 gradients are fewer than one window of 10"):
        run.analyze("gradient-noise", steps="0:5")


def test_a_gradient_counts_by_its_batch_size(made: Made) -> None:
    """A batch of a quarter has four times the variance; 40 examples are two batches and a half."""
    from ckptlab.analyze.weights.gradients import batch_sizes, gradient_noise

    class Unequal:
        """The recording, with short batches at the end of every epoch."""

        def __init__(self, source) -> None:
            self._source = source
            config = {"train": {"batch_size": 16}}
            self.attributes = {"training_examples": 36, "steps_per_epoch": 3, "config": config}

        def __getattr__(self, name: str):
            return getattr(self._source, name)

    from ckptlab.analyze.engine.source import as_source

    source = Unequal(as_source(ckptlab.open_run(made.path)))
    windows = np.arange(1, 71).reshape(10, 7)
    sizes = np.where(windows % 3 == 0, 4, 16).astype(float)
    np.testing.assert_array_equal(batch_sizes(source.attributes, windows), sizes)
    found = gradient_noise(source, window=7)
    g = made.gradients[made.groups("network", ("conv", "linear"))["network"]].astype(float)
    for k, (at, b) in enumerate(zip(windows, sizes, strict=True)):
        mean = (g[:, at] * b).sum(axis=1) / b.sum()
        # Weighted least squares: the variance of one example, from the spread about the mean.
        example = ((g[:, at] - mean[:, None]) ** 2 * b).sum() / (len(b) - 1)
        assert found["gradient_variance"][k].item() == pytest.approx(example / 16, rel=1e-6)
        signal = (mean**2).sum() - example / b.sum()
        assert found["gradient_signal"][k].item() == pytest.approx(signal, rel=1e-6)
    assert found["gradient_noise_scale"].attrs["batch_sizes"] == "as recorded"
