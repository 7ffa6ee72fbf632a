"""What a series of snapshots is to the health check: a run, or a folder of checkpoints."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ckptlab.analyze.health.findings import HealthFinding
from ckptlab.errors import ConfigError
from ckptlab.store.format.layout import Tensor
from ckptlab.store.read.reader import StoredRun, open_store

if TYPE_CHECKING:
    from ckptlab.record.convert.find_checkpoints import Choice

Array = npt.NDArray[Any]


class Series(Protocol):
    """Snapshots by step, each one vector of the tensors in order.

    `width` is how many steps are best read at once; `findings` holds what was found wrong on
    opening. `excused` says of each step after the first whether the run itself tells why nothing
    moved.
    """

    path: str
    steps: npt.NDArray[np.int64]
    tensors: Sequence[Tensor]
    width: int
    findings: list[HealthFinding]
    excused: npt.NDArray[np.bool_]
    pruned: bool

    def read(self, rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        """Read a stretch of the vector at consecutive steps, shape (steps, rows)."""
        ...


class RunSeries:
    """The weights of a stored run."""

    def __init__(self, run: StoredRun) -> None:
        self.path, self.steps = run.path, run.steps
        self.tensors: Sequence[Tensor] = run.layout.tensors
        self._weights = run.weights
        self.width = self._weights.shard[1]
        self.findings: list[HealthFinding] = []
        self.pruned = run.mask() is not None
        self.excused = np.zeros(max(len(self.steps) - 1, 0), bool)
        for name in ("lr", "skipped"):
            if name in run.arrays and len(self.steps):
                values = run.small(name)[1 : len(self.steps)]
                still = values == 0 if name == "lr" else values > 0
                # What lies between two recorded steps is not known unless they are neighbours.
                self.excused |= still & (np.diff(self.steps) == 1)

    def read(self, rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        """Read a stretch of the parameters."""
        values: npt.NDArray[np.float32] = self._weights.read(rows, columns).T
        return values


class FolderSeries:
    """Checkpoints in a folder, read without importing them."""

    width = 1

    def __init__(self, folder: Path, choice: Choice | None = None) -> None:
        from ckptlab.record.convert.find_checkpoints import find_checkpoints
        from ckptlab.record.convert.infer_layout import layout_of

        self.path = str(folder)
        self.findings: list[HealthFinding] = []
        self.pruned = False
        self._checkpoints = find_checkpoints(folder, choice, same_types=False).checkpoints
        self.steps = np.array([c.step for c in self._checkpoints], np.int64)
        self.excused = np.zeros(max(len(self.steps) - 1, 0), bool)
        layout = layout_of(self._checkpoints[0].open()[1].tensors)
        self._dtypes = {row.name: row.dtype for row in layout.rows}
        self._layout = layout
        self.tensors: Sequence[Tensor] = layout.tensors
        self._compare()

    def read(self, rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        """Read a stretch of the parameters of one checkpoint after the other."""
        from ckptlab.record.convert.assemble_rows import lazy_rows

        found = self._checkpoints[columns]
        states = [(str(c.path), c.open()[1].tensors) for c in found]
        values: npt.NDArray[np.float32] = lazy_rows(self._layout, states)["weights"].stretch(
            rows.start, rows.stop
        )
        return values

    def _compare(self) -> None:
        """Compare the types of all checkpoints' tensors with those of the first."""
        odd: dict[str, tuple[list[int], list[str]]] = {}
        for checkpoint in self._checkpoints[1:]:
            tensors = checkpoint.open()[1].tensors
            for name, dtype in self._dtypes.items():
                if tensors[name].dtype != dtype:
                    steps, names = odd.setdefault(f"{tensors[name].dtype}, not {dtype}", ([], []))
                    steps.append(checkpoint.step)
                    names.append(name)
        self.findings += [
            HealthFinding(
                rule="form",
                steps=tuple(dict.fromkeys(steps)),
                tensors=tuple(dict.fromkeys(names)),
                evidence=f"stored as {change} as at step {self.steps[0]}",
            )
            for change, (steps, names) in odd.items()
        ]


def open_series(recording: Any, choice: Choice | None = None) -> Series:
    """Take a run, a stored run, or the path of a run or a folder of checkpoints.

    Raises StoreError if there is neither, ConfigError for a choice among the steps of a run.
    """
    stored = getattr(recording, "stored", recording)
    is_folder = not isinstance(stored, StoredRun) and Path(os.fspath(recording)).is_dir()
    if is_folder and not (Path(os.fspath(recording)) / "zarr.json").exists():
        return FolderSeries(Path(os.fspath(recording)), choice)
    if choice is not None:
        raise ConfigError(
            f"{recording} is a run, and options such as --pattern choose checkpoints in a folder; "
            "leave them out"
        )
    if isinstance(stored, StoredRun):
        return RunSeries(stored)
    return RunSeries(open_store(recording))
