"""List the arrays of a run of format 1, with their metadata.

A new array over the steps is one new row here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ckptlab.store.format import zarr_metadata
from ckptlab.store.format.codecs import CODECS, OWN_CODECS, Codec, codec_of, find_codec
from ckptlab.store.format.layout import Layout
from ckptlab.store.format.zarr_metadata import ArrayMetadata

FORMAT = 1
"""Version of the format this code writes; it reads this and none newer."""

OPTIMIZER = "optimizer_"
"""Prefix of the arrays of optimizer states."""

OPTIMIZER_ROW = "optimizer_state"
"""Everything of the optimizer that is not parameter-shaped: one byte row an anchor."""

OPTIMIZER_ROW_CHUNK = 65536

MASK = "mask"
"""Which weights a sparse training keeps; the others are zero at every step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One small array along a step axis, in UDUNITS `units`; `by` names a dim before it."""

    name: str
    axis: str = "step"
    dtype: str = "float32"
    fill: Any = "NaN"
    long_name: str
    units: str = "1"
    by: str = ""


SERIES: dict[str, Series] = {
    series.name: series
    for series in (
        Series(name="step", dtype="int64", fill=-1, long_name="optimizer updates done"),
        Series(name="loss", long_name="mini-batch loss of the update from step-1 to step"),
        Series(name="batch_accuracy", long_name="mini-batch accuracy of the same update"),
        Series(name="lr", dtype="float64", long_name="learning rate of the same update"),
        Series(
            name="wall_time",
            dtype="float64",
            long_name="time since recording began, pauses between resumes left out",
            units="s",
        ),
        Series(
            name="stall_time",
            dtype="float64",
            long_name="time training waited for recording since the previous recorded step",
            units="s",
        ),
        Series(
            name="skipped", dtype="bool", fill=False, long_name="update skipped by an AMP scaler"
        ),
        Series(
            name="digest",
            dtype="uint64",
            fill=0,
            long_name="xxh3_64 of the weights of a shard",
            by="segment",
        ),
        Series(name="gradient_norm", by="tensor", long_name="L2 norm of the gradient"),
        Series(name="gradient_mean_abs", by="tensor", long_name="mean |g| of the gradient"),
        Series(
            name="anchor",
            axis="anchor",
            dtype="int64",
            fill=-1,
            long_name="steps at which the optimizer state is stored",
        ),
        Series(
            name="eval_step",
            axis="eval_step",
            dtype="int64",
            fill=-1,
            long_name="steps at which the test set was evaluated",
        ),
        Series(name="eval_loss", axis="eval_step", dtype="float64", long_name="test loss"),
        Series(name="eval_accuracy", axis="eval_step", dtype="float64", long_name="test accuracy"),
    )
}


OBSERVED_SERIES = "observed_"
"""Prefix of what is kept of observed steps, for arrays that are kept of recorded ones, too."""

SUMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "observed_sums": (
        "float64",
        (
            "magnitude",
            "square",
            "distance_previous",
            "distance_init",
            "total",
            "product_previous",
            "product_init",
        ),
    ),
    "observed_counts": ("int32", ("signs", "flips_previous", "flips_init", "nan")),
    "observed_extremes": ("float32", ("low", "high")),
}
"""What is summed over the weights of a tensor at observed steps: type and rows of each array."""


def observed_metadata(layout: Layout) -> dict[str, ArrayMetadata]:
    """Return the metadata of the arrays of observed steps, by name."""
    axis, tensors = zarr_metadata.OBSERVED, len(layout.tensors)
    small = zarr_metadata.small
    about = {"long_name": "steps whose weights were summed while recording"}
    found = {axis: small([axis], "int64", -1, attributes=about)}
    for name, (dtype, rows) in SUMS.items():
        chunk = _chunk(len(rows) * tensors)
        about = {"long_name": ", ".join(rows)}
        fill: Any = 0 if dtype == "int32" else "NaN"
        names, inner = [name.removeprefix(OBSERVED_SERIES), "tensor", axis], [len(rows), tensors]
        found[name] = small(names, dtype, fill, inner=inner, chunk=chunk, attributes=about)
    for name in ("loss", "batch_accuracy", "lr", "gradient_norm", "gradient_mean_abs"):
        series = SERIES[name]
        about = {"long_name": series.long_name, "units": series.units}
        inner = [tensors] if series.by else []
        found[OBSERVED_SERIES + name] = small(
            [*(["tensor"] if inner else []), axis],
            series.dtype,
            series.fill,
            inner=inner,
            chunk=_chunk(tensors) if inner else zarr_metadata.STEP_CHUNK,
            attributes=about,
        )
    return found


def _chunk(values: int) -> int:
    """Return the steps of a chunk, about 1 MiB at most, since each commit rewrites one."""
    chunk = zarr_metadata.STEP_CHUNK
    while chunk > 32 and chunk * values > 2**17:
        chunk //= 2
    return chunk


def series_metadata(series: Series, layout: Layout) -> ArrayMetadata:
    """Return the metadata of a small array."""
    attributes = {"long_name": series.long_name}
    if series.name not in ("step", "anchor", "eval_step", "digest"):
        attributes["units"] = series.units
    if not series.by:
        return zarr_metadata.small([series.axis], series.dtype, series.fill, attributes=attributes)
    length = len(layout.tensors) if series.by == "tensor" else segments(layout.parameters)
    # About 1 MiB a chunk at most, since each block rewrites one.
    chunk = zarr_metadata.STEP_CHUNK
    while chunk > 32 and chunk * length > 2**18:
        chunk //= 2
    return zarr_metadata.small(
        [series.by, series.axis],
        series.dtype,
        series.fill,
        inner=[length],
        chunk=chunk,
        attributes=attributes,
    )


def segments(parameters: int) -> int:
    """Return how many segments the parameter vector has: one for each shard of its arrays."""
    return -(-parameters // zarr_metadata.shard_rows(parameters))


_TAKEN = re.compile(
    r"(weights|gradients|mask|segment|tensor|tensor_index|param|byte)\Z|buffer|optimizer_|observed_"
    r"|(sums|counts|extremes)\Z"
)


def is_scalar_name(name: str) -> bool:
    """Return whether a training loop may log a number under a name, as an array of its own."""
    # It becomes the name of a folder, which some file systems find in any case.
    taken = name.lower() in SERIES or _TAKEN.match(name.lower()) is not None
    return not taken and re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,99}", name) is not None


def scalar_names(metadata: Mapping[str, ArrayMetadata]) -> tuple[str, ...]:
    """Name the arrays of numbers that a training loop logged."""
    found = (n for n, meta in metadata.items() if is_small(meta) and axis(meta) == "step")
    return tuple(name for name in found if name not in SERIES)


def scalar_metadata() -> ArrayMetadata:
    """Return the metadata of an array of numbers that the training loop logged."""
    attributes = {"long_name": "number that the training loop logged", "units": "1"}
    return zarr_metadata.small(["step"], "float64", "NaN", attributes=attributes)


def axis(metadata: ArrayMetadata) -> str:
    """Return the last dimension of an array, along which it may grow."""
    return str(metadata["dimension_names"][-1])


def is_small(metadata: ArrayMetadata) -> bool:
    """Return whether an array is a small one along a step axis."""
    sharded = metadata["codecs"][0]["name"] == "sharding_indexed"
    return axis(metadata) in zarr_metadata.STEP_AXES and not sharded


def array_metadata(
    layout: Layout,
    *,
    block: int,
    codec: Codec | str,
    optional: Iterable[str] = (),
    masked: bool = False,
    observed: bool = False,
) -> dict[str, ArrayMetadata]:
    """Return the metadata of all arrays of a new run, by name.

    `optional` names further large arrays, such as ``gradients``. Optimizer states come when they
    first appear.
    """
    chosen = codec if isinstance(codec, Codec) else find_codec(codec)
    found = {
        "weights": zarr_metadata.sharded(
            layout.parameters, block, ("param", "step"), chosen, "float32"
        )
    }
    for name in optional:
        found[name] = zarr_metadata.sharded(
            layout.parameters, block, ("param", "step"), chosen, "float32"
        )
    for name, size in layout.buffer_sizes.items():
        dtype = name.removeprefix("buffers").removeprefix("_") or "float32"
        stored = chosen if dtype == "float32" else CODECS["zstd"]
        if size:
            axis = name.replace("buffers", "buffer", 1)
            found[name] = zarr_metadata.sharded(size, block, (axis, "step"), stored, dtype)
    for series in SERIES.values():
        found[series.name] = series_metadata(series, layout)
    found["tensor"] = zarr_metadata.strings("tensor", len(layout.tensors))
    found["tensor_index"] = zarr_metadata.constant(
        ["param"], layout.parameters, "int32", CODECS["zstd"]
    )
    if observed:
        found |= observed_metadata(layout)
    if masked:
        found[MASK] = zarr_metadata.constant(
            ["param"], layout.parameters, "bool", CODECS["zstd"], False
        )
    return found


def stored_codec(metadata: Mapping[str, ArrayMetadata], name: str) -> Codec:
    """Return the codec of a stored run: one of our own by its name, others by their metadata."""
    if name in OWN_CODECS:
        return find_codec(name)
    found = codec_of(metadata["weights"]["codecs"][0]["configuration"]["codecs"], name)
    if found is None or found.name != name:
        raise ValueError(f"its codec {name!r:.80} is none that is known here")
    return found


def is_optimizer_name(name: str) -> bool:
    """Return whether a name can be that of an array of a parameter-shaped optimizer state."""
    # It becomes the name of a folder or of an object, and must not be one elsewhere.
    return (
        name != OPTIMIZER_ROW and re.fullmatch(r"optimizer_[A-Za-z0-9_-]{1,100}", name) is not None
    )


def optimizer_metadata(parameters: int, codec: Codec) -> ArrayMetadata:
    """Return the metadata of one parameter-shaped optimizer state, one anchor a shard."""
    single = CODECS["dense-single"] if codec.name == "dense" else codec
    return zarr_metadata.sharded(parameters, 1, ("param", "anchor"), single, "float32")


def optimizer_row_metadata(width: int) -> ArrayMetadata:
    """Return the metadata of the byte rows, wide enough for `width` bytes."""
    columns = -(-max(width, 1) // OPTIMIZER_ROW_CHUNK) * OPTIMIZER_ROW_CHUNK
    metadata = zarr_metadata.sharded(
        OPTIMIZER_ROW_CHUNK, 1, ("byte", "anchor"), CODECS["zstd"], "uint8"
    )
    long_name = "length as uint64, then safetensors of what is not parameter-shaped"
    return {**metadata, "shape": [columns, 0], "attributes": {"long_name": long_name}}


def committed_lengths(metadata: Mapping[str, ArrayMetadata]) -> dict[str, int]:
    """Return how long each step axis is in the consolidated view."""
    return {axis: int(metadata[axis]["shape"][-1]) for axis in step_axes(metadata)}


def step_axes(metadata: Mapping[str, ArrayMetadata]) -> tuple[str, ...]:
    """Return the step axes of a run: all but the observed one, and that if there is one."""
    last = zarr_metadata.OBSERVED
    return tuple(axis for axis in zarr_metadata.STEP_AXES if axis != last or last in metadata)
