"""Spans of steps and stretches of weights give what the whole matrix gives."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import ckptlab
from ckptlab.analyze.engine import histories
from ckptlab.analyze.engine.warnings import NaNWarning
from tests.analyze.recordings import Made
from tests.oracles import weights as oracles


@pytest.mark.parametrize("steps", [None, "5:60:3"])
def test_spans_join(made: Made, monkeypatch: pytest.MonkeyPatch, steps: str | None) -> None:
    monkeypatch.setattr(histories, "SPAN", 8)
    run = ckptlab.open_run(made.path)
    all_weights, gradients = made.weights.astype(float), made.gradients.astype(float)
    chosen = made.groups("network", ("conv", "linear"))["network"]
    w, g = all_weights[chosen], gradients[chosen]
    columns = np.arange(len(made.steps))
    if steps is not None:
        columns = np.flatnonzero(np.isin(made.steps, np.arange(5, 60, 3)))
    unchanged = oracles.unchanged(w, oracles.with_previous(w))[columns]
    # A selection begins with a step that has one before it.
    for source in (run, xr.open_zarr(made.path).ckpt):
        measure = run.analyze if source is run else lambda n, s=source, **o: getattr(s, n)(**o)
        np.testing.assert_allclose(measure("unchanged", steps=steps), unchanged)
        final = oracles.unchanged(w, np.broadcast_to(w[:, [-1]], w.shape))[columns]
        np.testing.assert_allclose(measure("unchanged", steps=steps, relative_to="final"), final)
        np.testing.assert_allclose(
            measure("kurtosis", steps=steps), oracles.kurtosis(w)[columns], rtol=1e-6
        )
        found = measure("alignment", steps=steps, lags=3)
        wanted = oracles.alignment(w, g, made.steps, 3)
        for name in ("update_cosine", "gradient_cosine"):
            np.testing.assert_allclose(found[name], wanted[name][columns], atol=1e-6)
        updates = np.diff(w, axis=1, prepend=np.nan)
        for lag in (1, 2, 3):
            at = columns[columns > lag]
            late, early = updates[:, at], updates[:, at - lag]
            value = (late * early).sum() / np.sqrt((late**2).sum() * (early**2).sum())
            assert float(found["autocorrelation"].sel(lag=lag)) == pytest.approx(value, abs=1e-6)


def test_spans_need_few_steps_at_a_time() -> None:
    columns = np.arange(3, 5000, 7)
    for lead in (0, 1, 21):
        spans = histories._spans(columns, lead)
        np.testing.assert_array_equal(np.concatenate(spans), columns)
        for span in spans:
            needed = np.unique(span[:, None] - np.arange(lead + 1))
            assert len(needed) <= histories.SPAN + lead


def test_nan_is_named(marred: Made) -> None:
    run = ckptlab.open_run(marred.path)
    for name in ("unchanged", "kurtosis", "alignment", "sparsity"):
        with pytest.warns(NaNWarning, match=r"'conv\.weight'"):
            found = run.analyze(name)
        values = found if isinstance(found, xr.DataArray) else found["update_cosine"]
        assert np.isnan(values[[0, 9, 16]]).all()
        assert np.isfinite(values[12])
