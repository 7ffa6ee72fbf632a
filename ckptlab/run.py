"""The Python face on a recording: open it, look at it, measure it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptlab.errors import StepError, UnknownNameError, unknown_name
from ckptlab.store.format.layout import Buffer, Layout, Tensor
from ckptlab.store.read.reader import StoredRun, open_store

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    import xarray as xr

    from ckptlab.analyze.health.findings import Health
    from ckptlab.problems.problem import Problem


class Run:
    """One recording, as far as it was committed when it was opened.

    Parameters
    ----------
    stored : StoredRun
        Usually from `open_run`.

    Examples
    --------
    >>> run = open_run("runs/x.zarr")  # doctest: +SKIP
    >>> run["layer1.0.conv1.weight"].sel(step=slice(0, 100))  # doctest: +SKIP
    >>> run.analyze("sign-flips", by="layer")  # doctest: +SKIP
    """

    def __init__(self, stored: StoredRun) -> None:
        self.stored = stored

    @property
    def path(self) -> str:
        """Local path or URL."""
        return self.stored.path

    @property
    def layout(self) -> Layout:
        """The tensor table."""
        return self.stored.layout

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """Recorded steps, shape (step,), increasing."""
        return self.stored.steps

    @property
    def state(self) -> str:
        """``recording``, ``complete`` or ``interrupted``."""
        return self.stored.state

    @property
    def attributes(self) -> dict[str, Any]:
        """Root attributes: config, seeds, versions, device and more (docs/format.md)."""
        return self.stored.attributes

    @cached_property
    def dataset(self) -> xr.Dataset:
        """Everything recorded, lazily: dims param, step, tensor, anchor, eval_step."""
        return self.stored.dataset()

    def __getitem__(self, name: str) -> xr.DataArray:
        """Return the history of one tensor or buffer, lazily.

        Parameters
        ----------
        name : str
            Its name in the model, or an alias of it.

        Returns
        -------
        DataArray, dims (step, …)
            Behind `step` the tensor's own dimensions: (out, in) for a linear weight,
            (out, in, kh, kw) for a convolution's, else ``dim_0``, ``dim_1`` …

        Raises
        ------
        UnknownNameError
            If the model has no such tensor; it suggests the nearest.
        """
        import xarray as xr

        row = self._row(name)
        flat = self.dataset[row.array].data[row.stretch]
        steps = len(self.steps)
        return xr.DataArray(
            flat.T.reshape((steps, *row.shape)),
            dims=("step", *_dimension_names(row)),
            coords={"step": self.dataset["step"]},
            name=row.name,
        )

    def snapshot(self, step: int | str) -> npt.NDArray[np.float32]:
        """Return the parameter vector at a recorded step.

        Parameters
        ----------
        step : int or str
            A recorded step, ``"init"`` (step 0) or ``"final"`` (the last recorded one).

        Returns
        -------
        ndarray of float32, shape (param,)
            All parameters, in the order of the layout.
        """
        return self.stored.snapshot(self._step(step))

    def state_dict(self, step: int | str) -> dict[str, torch.Tensor]:
        """Return what ``model.load_state_dict`` takes, at a recorded step.

        Parameters
        ----------
        step : int or str
            A recorded step, ``"init"`` (step 0) or ``"final"`` (the last recorded one).

        Returns
        -------
        dict of str to Tensor
            Parameters and persistent buffers in their own types; tied ones under every name.

        Raises
        ------
        MissingStepError
            If the step was not recorded; it names the nearest.
        CorruptError
            If the snapshot is damaged.
        """
        import torch

        step = self._step(step)
        vectors = {"weights": self.stored.snapshot(step)}
        for array in self.layout.buffer_sizes:
            if array in self.stored.arrays:
                vectors[array] = self.stored.snapshot(step, array)
        state: dict[str, torch.Tensor] = {}
        for row in self.layout.rows:
            vector = vectors.get(row.array)
            dtype = getattr(torch, row.dtype)
            # An empty buffer has no array. Copied by numpy: torch would have all threads wait.
            flat = np.zeros(0) if vector is None else vector[row.stretch]
            value = _exactly(flat.reshape(row.shape).copy(), dtype)
            state |= dict.fromkeys((row.name, *row.aliases), value)
        return state

    def analyze(
        self,
        name: str | Callable[..., Any],
        *,
        problem: Problem | None = None,
        **options: Any,
    ) -> xr.DataArray | xr.Dataset:
        """Compute a metric.

        Parameters
        ----------
        name : str or callable
            A name that ``ckptlab analyze list`` shows, ``module:function``, or a function decorated
            with ``@ckptlab.metric``.
        problem : Problem, optional
            Where a metric that needs a model takes it and its data from; for a run of ckptlab's
            trainer they are rebuilt.
        **options
            As on the command line, with underscores: ``steps``, ``relative_to``, ``by``,
            ``kinds``, ``mask``, ``scheduler`` … A metric that needs a model also takes
            ``model``, ``loss`` and ``data`` one by one.

        Returns
        -------
        DataArray or Dataset
            With units and reference in its attributes.
        """
        from ckptlab.analyze.registry.metrics import compute, find_metric
        from ckptlab.builtin import inputs_for

        metric = find_metric(name)
        with inputs_for(metric, self.attributes, options, self.path, problem) as inputs:
            return compute(self.stored, metric, **{**options, **inputs})

    def health(self, *, memory: int | str = "1GiB") -> Health:
        """Look for damage: copies, foreign steps, NaN, rows of zeros.

        Parameters
        ----------
        memory : int or str
            What may be held at a time beside the interpreter.

        Returns
        -------
        Health
            Findings, each with tensors, steps and evidence; see `check_health`.
        """
        from ckptlab.analyze.health.check import check_health

        return check_health(self, memory=memory)

    def __repr__(self) -> str:
        span = f"steps {self.steps[0]}..{self.steps[-1]}" if len(self.steps) else "no steps"
        return (
            f"<Run {self.path}: {self.layout.parameters:,} parameters, "
            f"{len(self.steps)} snapshots, {span}, {self.state}>"
        )

    def _step(self, step: int | str) -> int:
        """Return the number of a step that may be given by name."""
        if not isinstance(step, str):
            return int(step)
        if step == "init":
            return 0
        if step == "final" and len(self.steps):
            return int(self.steps[-1])
        raise StepError(
            f"step={step!r} is not a recorded step of {self.path}; accepted: a number, 'init', "
            f"'final'. Recorded: {len(self.steps)} steps, see run.steps."
        )

    def _row(self, name: str) -> Tensor | Buffer:
        for row in self.layout.rows:
            if name == row.name or name in row.aliases:
                return row
        raise unknown_name("tensor", name, [row.name for row in self.layout.rows])

    def __contains__(self, name: object) -> bool:
        try:
            self._row(str(name))
        except UnknownNameError:
            return False
        return True


def open_run(path: str | os.PathLike[str] | Any) -> Run:
    """Open a recording.

    Parameters
    ----------
    path : str, path-like or Zarr store
        A local path, a URL such as ``s3://bucket/run.zarr``, or an open Zarr store.

    Returns
    -------
    Run
        A view of what is committed now; open it again to see more.

    Raises
    ------
    StoreError
        If there is no run, it was written in a newer format, or it is damaged.
    """
    return Run(open_store(path))


def _exactly(values: npt.NDArray[Any], dtype: torch.dtype) -> torch.Tensor:
    """Return numbers in the type they had, the bits of NaN included, which torch would change."""
    import torch

    if dtype == torch.float16:
        return torch.from_numpy(values.astype(np.float16))
    if dtype == torch.bfloat16 and values.dtype == np.float32:
        upper = np.asarray(values.view(np.uint32) >> 16, np.int16)
        return torch.from_numpy(upper).view(torch.bfloat16)
    return torch.from_numpy(values).to(dtype)


def _dimension_names(row: Tensor | Buffer) -> tuple[str, ...]:
    kind = row.kind if isinstance(row, Tensor) else "buffer"
    known = {("linear", 2): ("out", "in"), ("conv", 4): ("out", "in", "kh", "kw")}
    default = tuple(f"dim_{i}" for i in range(len(row.shape)))
    return known.get((kind, len(row.shape)), default)
