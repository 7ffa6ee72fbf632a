"""Write the metadata of a run: the arrays' own, and the root's with its consolidated view."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.errors import ConfigError
from ckptlab.store.backends.base import ROOT, Storage
from ckptlab.store.format import schema
from ckptlab.store.format.block import Anchor
from ckptlab.store.format.codecs import Codec
from ckptlab.store.format.constants import mask_digest
from ckptlab.store.format.layout import Layout
from ckptlab.store.format.zarr_metadata import (
    OBSERVED,
    STEP_AXES,
    ArrayMetadata,
    root_metadata,
    with_length,
)
from ckptlab.store.read.power_loss import SYNCED, synced_attribute
from ckptlab.store.read.root import MAX_ROOT_BYTES
from ckptlab.store.write.recovery import mend_metadata, metadata_objects, read_own_metadata

_SPAN = ("start", "end")
_OURS = (*_SPAN, SYNCED)
RESERVED = frozenset(("format", "coordinates", "tensors", "buffers", "block", "codec", "state")) | {
    "metadata_digest",
    "mask_digest",
    *_OURS,
}
"""Root attributes that are the store's own."""


class MetadataWriter:
    """Writes the metadata of one run.

    `attributes` are the root's, `arrays` the arrays' metadata by name, and `capacity` is the
    allocated length of each step axis.
    """

    def __init__(
        self, storage: Storage, attributes: dict[str, Any], arrays: dict[str, ArrayMetadata]
    ) -> None:
        self.attributes = attributes
        self.arrays = arrays
        self.capacity = dict.fromkeys(STEP_AXES, 0)
        self._storage = storage

    def view(self, lengths: Mapping[str, int]) -> dict[str, ArrayMetadata]:
        """Return the arrays' metadata, cut at these lengths of the step axes."""
        return {name: with_length(meta, lengths) for name, meta in self.arrays.items()}

    def write_root(
        self,
        steps: Sequence[int],
        lengths: Mapping[str, int],
        synced: Mapping[str, int] | None,
    ) -> None:
        """Write the root metadata: committed steps, and the view cut at `lengths`.

        `synced` says how far commits that share syncs were synced; None where none do.
        """
        self.attributes = {k: v for k, v in self.attributes.items() if k not in _OURS}
        if steps:
            self.attributes |= dict(zip(_SPAN, (steps[0], steps[-1]), strict=True))
        if synced is not None:
            self.attributes[SYNCED] = synced_attribute(synced)
        root = root_metadata(self.attributes, self.view(lengths))
        self._storage.put(ROOT, [json.dumps(root, allow_nan=False).encode()])

    def write_arrays(self, names: Iterable[str]) -> None:
        """Write arrays' own metadata, with the allocated lengths."""
        chosen = {name: with_length(self.arrays[name], self.capacity) for name in names}
        self._storage.put_all(metadata_objects(chosen))

    def trim(self, lengths: Mapping[str, int]) -> None:
        """Give back what was allocated but not used."""
        self.capacity = dict(lengths)
        self.write_arrays(self.arrays)

    def grow(self, axis: str, length: int) -> None:
        """Allocate at least `length` entries: never fewer than double, so that it is rare."""
        if length <= self.capacity[axis]:
            return
        self.capacity[axis] = max(length, 2 * self.capacity[axis])
        self.write_arrays(
            name for name, meta in self.arrays.items() if meta["dimension_names"][-1] == axis
        )

    @property
    def codec(self) -> Codec:
        """The codec of the weights."""
        return schema.stored_codec(self.arrays, self.attributes["codec"])

    def add_states(self, anchor: Anchor, parameters: int) -> bool:
        """Add metadata of new optimizer states and longer byte rows; return whether any came."""
        found = {schema.OPTIMIZER_ROW: schema.optimizer_row_metadata(8 + len(anchor.row))}
        for key in anchor.states:
            found[schema.OPTIMIZER + key] = schema.optimizer_metadata(parameters, self.codec)
        added = {
            name: meta
            for name, meta in found.items()
            if name not in self.arrays or self.arrays[name]["shape"][0] < meta["shape"][0]
        }
        self.add(added)
        return bool(added)

    def add(self, arrays: Mapping[str, ArrayMetadata]) -> None:
        """Write the metadata of arrays that appear while a run is recorded, or grow wider."""
        self.arrays |= arrays
        self.write_arrays(arrays)

    def set_codec(self, layout: Layout, codec: str) -> None:
        """Write the metadata of a run of no steps again, under another codec."""
        chosen = schema.array_metadata(
            layout,
            block=self.attributes["block"],
            codec=codec,
            optional=[name for name in ("gradients",) if name in self.arrays],
            masked=schema.MASK in self.arrays,
            observed=OBSERVED in self.arrays,
        )
        self.attributes["codec"] = codec
        self.add({n: meta for n, meta in chosen.items() if meta != self.arrays.get(n)})

    def look_up_capacity(self, lengths: Mapping[str, int]) -> None:
        """Find out what was allocated before, at least these lengths."""
        for axis, length in lengths.items():
            own = read_own_metadata(self._storage, axis, self.arrays[axis])
            self.capacity[axis] = max(length, own["shape"][-1] if own else 0)

    def mend(self) -> None:
        """Make the arrays' own metadata agree: their writer may have died while it grew them."""
        mend_metadata(self._storage, self.arrays, self.capacity)
        # It may have died before it synced them, too.
        self._storage.unsure(f"{name}/{ROOT}" for name in self.arrays)


def new_attributes(
    attributes: Mapping[str, Any],
    layout: Layout,
    *,
    block: int,
    codec: str,
    mask: npt.NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """Return the root attributes of a new run; ConfigError if the user's cannot be stored."""
    taken = sorted(RESERVED & attributes.keys())
    if taken:
        raise ConfigError(f"attributes {', '.join(taken)} are the store's own; use other names")
    return {
        **as_json(attributes),
        "format": schema.FORMAT,
        "coordinates": "tensor_index",
        **layout.to_attributes(),
        "block": block,
        "codec": codec,
        "state": "recording",
        **({} if mask is None else {"mask_digest": mask_digest(mask)}),
    }


def as_json(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Copy attributes as JSON gives them back; ConfigError names what it cannot hold."""
    size = 0
    for key, value in attributes.items():
        try:
            size += len(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{key} cannot be stored: {error}; accepted: text, numbers except NaN "
                "and infinity, true, false, None, and lists and mappings of these"
            ) from error
    if size > MAX_ROOT_BYTES // 2:
        raise ConfigError(
            f"config and attributes take {size:,} bytes as JSON; accepted: up to "
            f"{MAX_ROOT_BYTES // 2:,}. Leave something out"
        )
    copy: dict[str, Any] = json.loads(json.dumps(dict(attributes), allow_nan=False))
    return copy
