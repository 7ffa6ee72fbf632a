"""Read what is new in a run from its small arrays alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.analyze.weights.timeline import PHASES
from ckptlab.report.watch.track import Track
from ckptlab.store.backends.local import LocalStorage
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format import schema
from ckptlab.store.format.layout import DEFAULT_KINDS, Layout
from ckptlab.store.format.small_arrays import chunk_length, read_chunk
from ckptlab.store.format.zarr_metadata import OBSERVED, ArrayMetadata
from ckptlab.store.read.root import read_root

LOCAL_SECONDS, REMOTE_SECONDS = 2.0, 10.0
"""A run is looked at this often, unless `REMOTE_BYTES` asks for longer."""

REMOTE_BYTES = 2**20 / 60
"""Bytes a second that are read from an object store at most."""

PACE_STEPS = 32
"""Updates a second are means over so many recorded steps."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a panel: its label, the track it is in, and its name there."""

    label: str
    track: str
    name: str


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines that share a chart."""

    key: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    log: bool = False


PANELS: tuple[Panel, ...] = (
    Panel(
        "loss", "Loss", "nats", (Line("batch", "training", "loss"), Line("test", "eval", "loss"))
    ),
    Panel(
        "accuracy",
        "Accuracy",
        "share",
        (Line("batch", "training", "batch_accuracy"), Line("test", "eval", "accuracy")),
    ),
    Panel(
        "weight-distance",
        "Distance of the weights",
        "L2",
        (Line("to init", "weights", "distance"), Line("to previous", "weights", "change")),
        log=True,
    ),
    Panel(
        "sign-flips",
        "Changed signs",
        "share",
        (Line("to init", "weights", "flips"), Line("to previous", "weights", "flips_previous")),
        log=True,
    ),
    Panel("gradient-norm", "Gradient norm", "L2", (Line("norm", "gradient", "norm"),), log=True),
    Panel("lr", "Learning rate", "1", (Line("rate", "training", "lr"),)),
    Panel("pace", "Pace", "updates/s", (Line("pace", "recording", "pace"),)),
    Panel("stalls", "Waited for recording", "s", (Line("in all", "recording", "stalled"),)),
)


@dataclass
class Feed:
    """A run as it grows.

    Parameters
    ----------
    path : path-like or str
        A run, local or in an object store; somebody else may record it.

    Attributes
    ----------
    epoch : int
        Grows whenever points that were there before have changed.
    tracks : dict of str to Track
        The numbers.
    bytes_read : int
        What was read from the store in all.
    """

    path: str | os.PathLike[str]
    epoch: int = 0
    tracks: dict[str, Track] = field(default_factory=dict)
    bytes_read: int = 0

    def __post_init__(self) -> None:
        self._storage = open_storage(self.path)
        self.local = isinstance(self._storage, LocalStorage)
        self.name = self._storage.path.rstrip("/").rpartition("/")[2]
        self._started: Any = None
        self._begin()

    def _begin(self) -> None:
        self.epoch += 1
        self.tracks = {n: Track() for n in ("training", "recording", "eval", "gradient", "weights")}
        self.status: dict[str, Any] = {}
        self._stalled = 0.0
        self._walls: list[tuple[int, float]] = []

    def poll(self) -> float:
        """Read what is new; return the seconds to wait before the next time.

        StoreError if the run is gone or damaged; what was read stays.
        """
        before = self.bytes_read
        attributes, metadata = read_root(self._storage)
        self.bytes_read += self._storage.size("zarr.json") or 0
        # Whoever resumes a run may cut it, and another one may lie here.
        lengths = {axis: metadata[axis]["shape"][-1] for axis in schema.step_axes(metadata)}
        axis = OBSERVED if OBSERVED in metadata else "step"
        axes = {"recording": "step", "eval": "eval_step", "weights": OBSERVED}
        of = {name: axes.get(name, axis) for name in self.tracks}
        cut = any(self.tracks[name].read > lengths.get(a, 0) for name, a in of.items())
        if cut or self._started not in (None, attributes.get("started")):
            self._begin()
        self._started = attributes.get("started")
        prefix = schema.OBSERVED_SERIES if axis == OBSERVED else ""
        layout = Layout.from_attributes(attributes)
        for name, track in self.tracks.items():
            start, stop = track.read, lengths.get(of[name], 0)
            if start < stop:
                read = _Reader(self, metadata, start, stop, prefix)
                columns = getattr(self, f"_{name}")(read, layout)
                self.epoch += track.add(read(of[name]), columns)
        self._describe(attributes, lengths)
        pause = LOCAL_SECONDS if self.local else REMOTE_SECONDS
        return pause if self.local else max(pause, (self.bytes_read - before) / REMOTE_BYTES)

    def panels(self) -> list[Panel]:
        """Return the panels that have something to show, those of a user's scalars last."""
        known = {line.name for panel in PANELS for line in panel.lines}
        own = [name for name in self.tracks["recording"].values if name not in known]
        further = [Panel(f"own-{n}", n, "", (Line(n, "recording", n),)) for n in own]
        return [panel for panel in (*PANELS, *further) if any(map(self._has, panel.lines))]

    def _has(self, line: Line) -> bool:
        values = self.tracks[line.track].values.get(line.name, [])
        return any(value is not None for value in values)

    def _training(self, read: _Reader, _: Layout) -> dict[str, Array]:
        return {name: read.series(name) for name in ("loss", "batch_accuracy", "lr")}

    def _recording(self, read: _Reader, _: Layout) -> dict[str, Array]:
        steps, walls = read("step").tolist(), read("wall_time").tolist()
        pace = []
        for now in zip(steps, walls, strict=True):
            first = self._walls[0] if self._walls else now
            took = now[1] - first[1]
            pace.append((now[0] - first[0]) / took if took > 0 else np.nan)
            self._walls = [*self._walls[-PACE_STEPS + 1 :], now]
        waited = self._stalled + np.nancumsum(read("stall_time"))
        self._stalled = float(waited[-1])
        own = {name: read(name) for name in schema.scalar_names(read.metadata)}
        return {**own, "pace": np.array(pace), "stalled": waited}

    def _eval(self, read: _Reader, _: Layout) -> dict[str, Array]:
        return {name: read(f"eval_{name}") for name in ("loss", "accuracy")}

    def _gradient(self, read: _Reader, _: Layout) -> dict[str, Array]:
        norms = read.series("gradient_norm").astype(float)
        known = np.isfinite(norms).any(axis=0)
        return {"norm": np.where(known, np.sqrt(np.nansum(norms**2, axis=0)), np.nan)}

    def _weights(self, read: _Reader, layout: Layout) -> dict[str, Array]:
        kinds = [tensor.kind in DEFAULT_KINDS for tensor in layout.tensors]
        chosen = np.array(kinds) if any(kinds) else np.ones(len(kinds), bool)
        weights = sum(t.size for t, c in zip(layout.tensors, chosen, strict=True) if c)
        found: dict[str, Array] = {}
        for array in ("observed_sums", "observed_counts"):
            table = read(array)[:, chosen].sum(axis=1)
            found |= dict(zip(schema.SUMS[array][1], table, strict=True))
        return {
            "distance": np.sqrt(found["distance_init"]),
            "change": np.sqrt(found["distance_previous"]),
            "flips": found["flips_init"] / weights,
            "flips_previous": found["flips_previous"] / weights,
        }

    def _describe(self, attributes: Mapping[str, Any], lengths: Mapping[str, int]) -> None:
        track = max(self.tracks.values(), key=lambda t: t.steps[-1] if t.steps else -1)
        last = int(track.steps[-1]) if track.steps else 0
        reached = [phase for phase in PHASES if phase.start <= last]
        self.status = {
            "state": attributes["state"],
            "last_step": last,
            "total_steps": attributes.get("total_steps"),
            "snapshots": lengths["step"],
            "phases": [[phase.name, phase.start, phase.finding] for phase in reached],
        }

    def latest(self, track: str, name: str) -> float | None:
        """Return the last known value of a series."""
        values = self.tracks[track].values.get(name, [])
        return next((value for value in reversed(values) if value is not None), None)


class _Reader:
    """Reads the new entries of arrays over one axis, and counts bytes."""

    def __init__(
        self, feed: Feed, metadata: Mapping[str, ArrayMetadata], start: int, stop: int, prefix: str
    ) -> None:
        self.metadata = metadata
        self._feed, self._start, self._stop, self._prefix = feed, start, stop, prefix

    def __call__(self, name: str) -> Array:
        """Read an array, the step axis last; only chunks with new entries are read."""
        document = self.metadata[name]
        length = chunk_length(document)
        parts = []
        for position in range(self._start // length, -(-self._stop // length)):
            chunk = read_chunk(self._feed._storage, name, document, position)
            self._feed.bytes_read += chunk.nbytes + 4
            first = position * length
            parts.append(chunk[..., max(self._start - first, 0) : self._stop - first])
        return np.concatenate(parts, axis=-1)

    def series(self, name: str) -> Array:
        """Read a series at observed steps where there are any, else at recorded ones."""
        return self(self._prefix + name)
