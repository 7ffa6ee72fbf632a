"""Tell what an import would take, from a sample of its first block."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from ckptlab.cores import count_cores
from ckptlab.record.convert.assemble_rows import array_types, lazy_rows
from ckptlab.record.convert.find_checkpoints import Series
from ckptlab.record.convert.import_checkpoints import choose_block
from ckptlab.record.convert.infer_layout import layout_of
from ckptlab.store.format.codecs import find_codec

SAMPLE = 2**18
"""Parameters that are read and encoded to estimate the time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What an import would write.

    Parameters
    ----------
    steps : list of int
        The steps, in order.
    tensors : dict of str to str
        Type and shape of each tensor and buffer, by name.
    parameters : int, optional
        Of the model, if that is known.
    bytes_read, bytes_stored : int
        Of all tensors in the checkpoints, and estimated in the run, if that is known.
    seconds : float, optional
        Estimated.
    notes : list of str
        What would be chosen and left out, a line each.
    """

    steps: list[int]
    tensors: Mapping[str, str]
    parameters: int | None
    bytes_read: int
    bytes_stored: int | None
    seconds: float | None
    notes: list[str]


def estimate_import(series: Series, *, codec: str = "dense", memory: int = 2**30) -> Estimate:
    """Estimate an import; nothing is written.

    Parameters
    ----------
    series : Series
        As `find_checkpoints` gives it.
    codec : str
        Public codec name.
    memory : int
        Upper bound for what is held, in bytes.

    Returns
    -------
    Estimate
        Time and bytes scale with those of a sample of the first block.
    """
    content, weights = series.checkpoints[0].open()
    layout = layout_of(weights.tensors)
    block = choose_block(layout, len(series.checkpoints), memory, ranged=content.ranged)
    first = series.checkpoints[:block]
    began = time.perf_counter()
    states = [(str(c.path), c.open()[1].tensors) for c in first]
    size = min(layout.parameters, SAMPLE)
    at = (layout.parameters - size) // 2
    rows = lazy_rows(layout, states)["weights"].stretch(at, at + size)
    read = time.perf_counter()
    encoded = len(find_codec(codec).encode(rows.T.copy()))
    done = time.perf_counter()
    arrays = array_types(layout)
    stored = sum(n * dtype.itemsize for n, dtype in arrays.values()) * len(series.checkpoints)
    share = stored / rows.nbytes
    held = {id(t) if t.identity is None else t.identity: t for t in weights.tensors.values()}
    return Estimate(
        steps=[checkpoint.step for checkpoint in series.checkpoints],
        tensors={row.name: f"{row.dtype} {list(row.shape)}" for row in layout.rows},
        parameters=layout.parameters,
        bytes_read=sum(tensor.nbytes for tensor in held.values()) * len(series.checkpoints),
        bytes_stored=int(encoded * share),
        seconds=share * (read - began + (done - read) / count_cores()),
        notes=series.notes,
    )
