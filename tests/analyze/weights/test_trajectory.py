"""Single weights and principal components."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.linalg
import xarray as xr

import ckptlab
from ckptlab.analyze.engine.warnings import NaNWarning
from ckptlab.errors import ConfigError, LayoutError, StepError
from tests.analyze.recordings import Made


def test_trajectories_are_the_weights(made: Made, mask: np.ndarray) -> None:
    run = ckptlab.open_run(made.path)
    traces = run.analyze("trajectories", count=7, seed=3, mask=mask, steps="5:90:3")
    columns = np.flatnonzero(np.isin(made.steps, np.arange(5, 90, 3)))
    chosen = traces["param"].values
    np.testing.assert_array_equal(traces.values, made.weights[chosen][:, columns])
    assert mask[chosen].all()
    assert [made.names[t] for t in made.tensor[chosen]] == traces["tensor"].values.tolist()
    again = run.analyze("trajectories", count=7, seed=3, mask=mask, steps="5:90:3")
    xr.testing.assert_identical(traces, again)
    other = run.analyze("trajectories", count=7, seed=4, mask=mask)
    assert other["param"].values.tolist() != chosen.tolist()
    from_dataset = xr.open_zarr(made.path).ckpt.trajectories(count=7, seed=3, mask=mask)
    np.testing.assert_array_equal(from_dataset["param"], chosen)


def test_more_trajectories_than_weights_are_refused(made: Made) -> None:
    run = ckptlab.open_run(made.path)
    with pytest.raises(LayoutError, match="count=200 is more than the 10 selected"):
        run.analyze("trajectories", count=200, kinds="norm")
    with pytest.raises(ConfigError, match=r"count 0 .* >= 1"):
        run.analyze("trajectories", count=0)


@pytest.mark.parametrize("steps", [None, "10:60:2"])
def test_subspace_equals_the_svd_of_the_centred_path(wide: Made, steps: str | None) -> None:
    found = ckptlab.open_run(wide.path).analyze("subspace", kinds="all", steps=steps, components=6)
    columns = slice(None) if steps is None else slice(10, 60, 2)
    path = wide.weights[:, columns].astype(float)
    path -= path.mean(axis=1, keepdims=True)
    _, values, vectors = scipy.linalg.svd(path, full_matrices=False)
    shares = values**2 / (values**2).sum()
    np.testing.assert_allclose(found["explained_variance"], shares[:6], rtol=1e-6)
    projection = values[:6, None] * vectors[:6]
    projection *= np.where(projection[:, -1:] < 0, -1, 1)
    scale = np.abs(projection).max()
    np.testing.assert_allclose(found["projection"], projection, rtol=1e-5, atol=1e-7 * scale)
    cosine = projection / np.linalg.norm(path, axis=0)
    np.testing.assert_allclose(found["cosine"], cosine, rtol=1e-5, atol=1e-6)
    from_dataset = xr.open_zarr(wide.path).ckpt.subspace(kinds="all", steps=steps, components=6)
    xr.testing.assert_allclose(from_dataset, found)


def test_all_components_give_the_distances_between_steps(made: Made) -> None:
    found = ckptlab.open_run(made.path).analyze("subspace", kinds="norm", components=75)
    assert found["explained_variance"].sum().item() == pytest.approx(1)
    rows = made.groups("network", ("norm",))["network"]
    w = made.weights[rows].astype(float)
    p = found["projection"].values
    between = np.linalg.norm(p[:, 3] - p[:, 60])
    assert between == pytest.approx(np.linalg.norm(w[:, 3] - w[:, 60]), rel=1e-6)


def test_subspace_uses_evenly_spaced_steps_and_the_last(wide: Made) -> None:
    found = ckptlab.open_run(wide.path).analyze("subspace", points=20)
    assert found["step"].values.tolist() == list(range(2, 75, 4))
    assert found.attrs["steps_selected"] == 75
    assert found.attrs["steps_used"] == 19


def test_subspace_needs_two_steps_and_knows_nan(wide: Made, marred: Made) -> None:
    with pytest.raises(StepError, match="at least 2"):
        ckptlab.open_run(wide.path).analyze("subspace", steps="5")
    run = ckptlab.open_run(marred.path)
    with pytest.warns(NaNWarning, match=r"'big\.weight' at steps 9 to 16 \(5 values\)"):
        found = run.analyze("subspace")
    assert np.isnan(found["explained_variance"]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error", NaNWarning)
        assert not np.isnan(run.analyze("subspace", steps="10:16")["projection"]).any()


def test_trajectories_name_the_nan_they_meet(marred: Made) -> None:
    run = ckptlab.open_run(marred.path)
    weights = int(run.analyze("weight-magnitude", steps="1").attrs["weights"])
    with pytest.warns(NaNWarning, match=r"'big\.weight' at step 9 \(3 values\)"):
        run.analyze("trajectories", count=weights, steps="5:15")
