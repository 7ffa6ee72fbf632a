"""What is committed: the markers `step`, `anchor` and `eval_step`, and the files they stand for.

The markers may be one block ahead of the view
in the root metadata, never behind it: a writer that dies between the two leaves them so.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ckptlab.errors import CorruptError
from ckptlab.store.backends.base import Storage
from ckptlab.store.format.schema import step_axes
from ckptlab.store.format.shards import Grid, is_sharded
from ckptlab.store.format.small_arrays import chunk_key, chunk_length, read_chunk
from ckptlab.store.format.zarr_metadata import OBSERVED, STEP_AXES, ArrayMetadata


@dataclass(kw_only=True, slots=True)
class Markers:
    """What a run holds, by its markers.

    Parameters
    ----------
    steps : list of int
        Recorded steps, increasing.
    anchors : list of int
        Those of them with the optimizer's state.
    evaluations : list of int
        Steps of the evaluations, up to the last recorded step.
    observed : list of int or None
        Observed steps; None where none are.
    """

    steps: list[int]
    anchors: list[int]
    evaluations: list[int]
    observed: list[int] | None = None

    def lengths(self) -> dict[str, int]:
        """Return the length of each step axis."""
        found = self.steps, self.anchors, self.evaluations, self.observed
        axes = zip(STEP_AXES, found, strict=True)
        return {axis: len(steps) for axis, steps in axes if steps is not None}


def read_markers(
    storage: Storage, documents: Mapping[str, ArrayMetadata], *, ahead: bool = True
) -> Markers:
    """Read what is committed, the view's and what was committed since.

    Parameters
    ----------
    storage : Storage
        Where the run lies.
    documents : mapping of str to dict
        Documents of the arrays, from the root metadata.
    ahead : bool
        Whether markers past the view count; after a power loss they do not.

    Returns
    -------
    Markers
        Without anchors and evaluations past the last step.

    Raises
    ------
    CorruptError
        If a marker the view names is missing or damaged, or they contradict each other.
    """
    found = {axis: _leading(storage, axis, documents[axis]) for axis in step_axes(documents)}
    if not ahead:
        found = {axis: v[: documents[axis]["shape"][-1]] for axis, v in found.items()}
    steps = found["step"]
    last = steps[-1] if steps else -1
    anchors = [s for s in found["anchor"] if s <= last]
    evaluations = [s for s in found["eval_step"] if s <= last]
    # Steps are observed past the last recorded one, too.
    observed = found.get(OBSERVED)
    axes = zip(STEP_AXES, (steps, anchors, evaluations, observed), strict=True)
    for name, values in axes:
        if values is None:
            continue
        if len(values) < documents[name]["shape"][-1]:
            raise CorruptError(
                f"{storage.path}: `{name}` goes past the last step; run ckptlab verify"
            )
        if any(b <= a for a, b in itertools.pairwise(values)):
            raise CorruptError(f"{storage.path}: `{name}` does not increase; run ckptlab verify")
    if not set(anchors) <= set(steps):
        raise CorruptError(f"{storage.path}: `anchor` names a step that was not recorded")
    return Markers(steps=steps, anchors=anchors, evaluations=evaluations, observed=observed)


def committed_keys(name: str, document: ArrayMetadata) -> Iterator[str]:
    """Yield the files an array may have.

    Parameters
    ----------
    name : str
        Name of the array.
    document : dict
        Its metadata, cut at what is committed.

    Yields
    ------
    str
        Keys of its shards or chunks. Optimizer states have fewer: one that appeared later has no
        shards at earlier anchors.
    """
    if is_sharded(document):
        yield from (key for key, _, _ in Grid.of(document).keys(name))
    elif document["dimension_names"][-1] not in STEP_AXES:
        yield f"{name}/c/0"
    else:
        chunks = -(-document["shape"][-1] // chunk_length(document))
        # The first is there before the first commit, too.
        yield from (chunk_key(name, document, position) for position in range(max(chunks, 1)))


def _leading(storage: Storage, axis: str, document: ArrayMetadata) -> list[int]:
    """Return the entries of an axis that were written, at least the committed ones."""
    committed = int(document["shape"][-1])
    length = chunk_length(document)
    found: list[int] = []
    while len(found) % length == 0:
        try:
            values = read_chunk(storage, axis, document, len(found) // length)
        except CorruptError:
            if len(found) < committed:
                raise
            break  # nothing was written there yet, or its writer died
        written = np.minimum.accumulate(values >= 0)
        found += [int(step) for step in values[written]]
        if not written.all():
            break
    if len(found) < committed:
        raise CorruptError(
            f"{storage.path}: `{axis}` has {len(found)} entries where {committed} are committed; "
            "run ckptlab verify"
        )
    return found
