"""Several runs of one network side by side: replicates, and what is common to them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from ckptlab.errors import LayoutError, StepError, StoreError, spell, unknown_name
from ckptlab.run import Run, open_run

if TYPE_CHECKING:
    import xarray as xr

AXES: tuple[str, ...] = (
    *("step", "eval_step", "alpha", "phase"),
    *("component", "eigenvalue", "layer", "tensor", "param"),
)
"""Dims whose coordinates must be the same in every run."""


class Runs:
    """Runs of one network, measured together; results have the dim ``run``.

    Parameters
    ----------
    runs : sequence of Run
        With the same tensors.

    Raises
    ------
    LayoutError
        If they are not of one network.
    StoreError
        If there is none.

    Examples
    --------
    >>> runs = open_runs("runs/seed*.zarr")  # doctest: +SKIP
    >>> runs.analyze("weight-distance").mean("run")  # doctest: +SKIP
    >>> runs.std("evaluation")  # doctest: +SKIP
    """

    def __init__(self, runs: Iterable[Run]) -> None:
        self.runs = tuple(runs)
        if not self.runs:
            raise StoreError("no run was given; give at least one")
        for run in self.runs[1:]:
            _require_same_tensors(self.runs[0], run)

    @property
    def names(self) -> list[str]:
        """Coordinate of the dim ``run``: see `run_names`."""
        return run_names([run.path for run in self.runs])

    @cached_property
    def dataset(self) -> xr.Dataset:
        """Everything recorded at the steps, lazily, with the dim ``run`` first.

        Raises
        ------
        StepError
            If they were recorded at different steps.
        """
        axes = {"param", "buffer", "tensor", "step"}
        parts = []
        for run in self.runs:
            dataset = run.dataset
            extra = [n for n, v in dataset.variables.items() if not set(v.dims) <= axes]
            parts.append(dataset.drop_vars(extra))
        joined: xr.Dataset = self._joined(parts)
        return joined

    def analyze(self, name: str | Callable[..., Any], **options: Any) -> xr.DataArray | xr.Dataset:
        """Compute a metric on every run.

        Parameters
        ----------
        name : str or callable
            As `Run.analyze` takes it.
        **options
            As `Run.analyze` takes them.

        Returns
        -------
        DataArray or Dataset, dims (run, …)
            The results side by side. Attributes that differ are left out.

        Raises
        ------
        StepError
            If the results are not at the same steps.
        """
        results = [run.analyze(name, **options) for run in self.runs]
        joined: xr.DataArray | xr.Dataset = self._joined(results)
        return joined

    def mean(self, name: str | Callable[..., Any], **options: Any) -> xr.DataArray | xr.Dataset:
        """Compute a metric on every run, and take the mean over runs.

        Parameters
        ----------
        name : str
            Name of the metric.
        **options
            As `Run.analyze` takes them.

        Returns
        -------
        DataArray or Dataset
            Without the dim ``run``.
        """
        return self.analyze(name, **options).mean("run", keep_attrs=True, skipna=False)

    def std(
        self, name: str | Callable[..., Any], *, ddof: int = 1, **options: Any
    ) -> xr.DataArray | xr.Dataset:
        """Compute a metric on every run, and take the standard deviation over runs.

        Parameters
        ----------
        name : str
            Name of the metric.
        ddof : int
            The divisor is the number of runs less this: by default the sample standard deviation,
            NaN for one run. It is an attribute of the result.
        **options
            As `Run.analyze` takes them.

        Returns
        -------
        DataArray or Dataset
            Without the dim ``run``.
        """
        result = self.analyze(name, **options).std("run", ddof=ddof, keep_attrs=True, skipna=False)
        return result.assign_attrs(std_ddof=ddof)

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, key: int | str) -> Run:
        """Return a run by its position or its name."""
        if isinstance(key, str):
            if key not in self.names:
                raise unknown_name("run", key, self.names)
            return self.runs[self.names.index(key)]
        return self.runs[key]

    def __repr__(self) -> str:
        return f"<Runs: {', '.join(self.names)}>"

    def _joined(self, results: list[Any]) -> Any:
        import xarray as xr

        for run, result in zip(self.runs[1:], results[1:], strict=True):
            for axis in AXES:
                self._require_same_axis(axis, results[0], result, run.path)
        return xr.concat(
            results,
            dim=xr.Variable("run", self.names),
            data_vars="all",
            coords="different",
            compat="equals",
            join="exact",
            combine_attrs="drop_conflicts",
        )

    def _require_same_axis(self, axis: str, one: Any, other: Any, path: str) -> None:
        if axis not in one.coords and axis not in other.coords:
            return
        first, second = one.coords.get(axis), other.coords.get(axis)
        if first is None or second is None or not first.equals(second):
            found = [_span(values) for values in (first, second)]
            raise StepError(
                f"{self.runs[0].path} and {path} differ along {axis!r}: {found[0]}, {found[1]}; "
                f"choose steps that all of them have, such as {spell('steps', '0:100')}"
            )


def open_runs(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Runs:
    """Open several recordings of one network.

    Parameters
    ----------
    paths : str, path-like, or iterable of these
        Local paths may be patterns, such as ``runs/seed*.zarr``, whose matches are sorted.

    Returns
    -------
    Runs
        In the order given.

    Raises
    ------
    StoreError
        If a pattern matches nothing, or a path is no run.
    LayoutError
        If the runs are not of one network.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    return Runs(open_run(path) for path in find_runs(given))


def find_runs(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Find the recordings that paths and patterns name, each once.

    Parameters
    ----------
    paths : iterable of str or path-like
        Local ones may be patterns, whose matches are sorted.

    Returns
    -------
    list of str
        In the order given.

    Raises
    ------
    StoreError
        If a pattern matches nothing.
    """
    found: list[str] = []
    for text in (os.fspath(path) for path in paths):
        matches = _matches(text)
        if not matches:
            raise StoreError(f"{text} matches no run; see which there are with: ls -d")
        found += matches
    return list(dict.fromkeys(found))


def run_names(paths: Iterable[str]) -> list[str]:
    """Name recordings: by their file names without ending, or by their paths if two are alike."""
    listed = list(paths)
    stems = [PurePath(path.rstrip("/")).stem for path in listed]
    return stems if len(set(stems)) == len(stems) else listed


def _matches(text: str) -> list[str]:
    pattern = Path(text)
    if "://" in text or pattern.exists() or not set("*?[") & set(text):
        return [text]
    fixed = Path(pattern.anchor)
    return sorted(map(str, fixed.glob(str(pattern.relative_to(fixed)))))


def _require_same_tensors(one: Run, other: Run) -> None:
    difference = one.layout.difference(other.layout, dtypes=False)
    if difference is not None:
        name, first, second = difference
        raise LayoutError(
            f"{one.path} and {other.path} are not of the same network: {name!r} is "
            f"{first} in the one and {second} in the other; open runs of one network"
        )


def _span(values: Any) -> str:
    if values is None:
        return "none"
    return f"{values.size} from {values.values[0]} to {values.values[-1]}" if values.size else "0"
