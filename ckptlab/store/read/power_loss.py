"""What of a run survives a power loss: how far it was synced, and before which boot.

After a power loss, files that were not synced may be
missing, torn or old, in any combination, and checksums find the torn ones alone. So a writer whose
commits share syncs says in the root metadata how far it has synced; what lies behind that does not
count once the machine has booted again. A process that dies loses nothing: the files are there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ckptlab.store.format.shards import Grid, is_sharded, shard_key
from ckptlab.store.format.small_arrays import chunk_key, chunk_length
from ckptlab.store.format.zarr_metadata import OBSERVED, STEP_AXES, ArrayMetadata, with_length

SYNCED = "synced"
"""Root attribute: ``boot`` and, for each step axis, how many entries were synced."""


class PowerLossWarning(UserWarning):
    """What was recorded last was not synced before the machine went down, and does not count."""


@functools.cache
def boot_id() -> str | None:
    """Return an id that changes at every boot of this machine; None where it is unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # no Linux
        return None


def synced_attribute(lengths: Mapping[str, int]) -> dict[str, Any]:
    """Return the attribute of a run that was synced up to these lengths.

    Parameters
    ----------
    lengths : mapping of str to int
        Length of each step axis.

    Returns
    -------
    dict
        JSON.
    """
    return {**lengths, "boot": boot_id()}


def synced_lengths(attributes: Mapping[str, Any]) -> dict[str, int] | None:
    """Return how long each step axis was when it was last synced.

    Parameters
    ----------
    attributes : mapping
        Root attributes.

    Returns
    -------
    dict of str to int, or None
        None if all that is committed was synced.

    Raises
    ------
    ValueError, TypeError, KeyError
        If the attribute is not of the documented form.
    """
    if SYNCED not in attributes:
        return None
    synced = attributes[SYNCED]
    lengths = {axis: synced[axis] for axis in STEP_AXES if axis != OBSERVED or axis in synced}
    if not all(type(n) is int and n >= 0 for n in lengths.values()):
        raise ValueError(f"{SYNCED} {attributes[SYNCED]!r:.80} holds no lengths")
    return lengths


def surviving_lengths(attributes: Mapping[str, Any]) -> dict[str, int] | None:
    """Return how much of a run counts if the machine has booted since it was written.

    Parameters
    ----------
    attributes : mapping
        Root attributes, checked.

    Returns
    -------
    dict of str to int, or None
        Length of each step axis; None if all that is committed counts.
    """
    lengths = synced_lengths(attributes)
    return None if lengths is None or attributes[SYNCED].get("boot") == boot_id() else lengths


def unsynced_keys(
    documents: Mapping[str, ArrayMetadata], synced: Mapping[str, int], lengths: Mapping[str, int]
) -> Iterator[str]:
    """Yield the files that hold what was committed and not synced.

    Parameters
    ----------
    documents : mapping of str to dict
        Metadata of the arrays.
    synced, lengths : mapping of str to int
        Length of each step axis when it was last synced, and as committed.

    Yields
    ------
    str
        Keys; some may not exist.
    """
    for name, document in documents.items():
        axis = document["dimension_names"][-1]
        if axis not in lengths:
            continue
        if not is_sharded(document):
            length = chunk_length(document)
            for position in range(synced[axis] // length, lengths[axis] // length + 1):
                yield chunk_key(name, document, position)
            continue
        grid = Grid.of(with_length(document, lengths))
        for i in range(grid.shard_grid[0]):
            for j in range(synced[axis] // grid.shard[1], grid.shard_grid[1]):
                yield shard_key(name, i, j)
