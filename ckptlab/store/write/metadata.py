"""The metadata of a run that is being written: the arrays' own, and the root's with its view."""

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
from ckptlab.store.format.constants import mask_digest
from ckptlab.store.format.layout import Layout
from ckptlab.store.format.zarr_metadata import STEP_AXES, Document, root_document, with_length
from ckptlab.store.read.power_loss import SYNCED, synced_attribute
from ckptlab.store.read.root import MAX_ROOT_BYTES
from ckptlab.store.write.recovery import document_objects, mend_documents, read_own_document

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

    Parameters
    ----------
    storage : Storage
        Where the run lies.
    attributes : dict
        Root attributes.
    documents : dict of str to dict
        Metadata of the arrays.

    Attributes
    ----------
    capacity : dict of str to int
        Allocated length of each step axis.
    """

    def __init__(
        self, storage: Storage, attributes: dict[str, Any], documents: dict[str, Document]
    ) -> None:
        self.attributes = attributes
        self.documents = documents
        self.capacity = dict.fromkeys(STEP_AXES, 0)
        self._storage = storage

    def view(self, lengths: Mapping[str, int]) -> dict[str, Document]:
        """Return the arrays' metadata, cut at these lengths of the step axes."""
        return {name: with_length(doc, lengths) for name, doc in self.documents.items()}

    def write_root(
        self,
        steps: Sequence[int],
        lengths: Mapping[str, int],
        synced: Mapping[str, int] | None,
    ) -> None:
        """Put the root metadata.

        Parameters
        ----------
        steps : sequence of int
            Committed steps.
        lengths : mapping of str to int
            Length of each step axis in the view.
        synced : mapping of str to int or None
            How far commits that share syncs were synced; None where none do.
        """
        self.attributes = {k: v for k, v in self.attributes.items() if k not in _OURS}
        if steps:
            self.attributes |= dict(zip(_SPAN, (steps[0], steps[-1]), strict=True))
        if synced is not None:
            self.attributes[SYNCED] = synced_attribute(synced)
        root = root_document(self.attributes, self.view(lengths))
        self._storage.put(ROOT, [json.dumps(root, allow_nan=False).encode()])

    def write_documents(self, names: Iterable[str]) -> None:
        """Put arrays' own metadata, of the allocated lengths."""
        chosen = {name: with_length(self.documents[name], self.capacity) for name in names}
        self._storage.put_all(document_objects(chosen))

    def trim(self, lengths: Mapping[str, int]) -> None:
        """Give back what was allocated and not used."""
        self.capacity = dict(lengths)
        self.write_documents(self.documents)

    def grow(self, axis: str, length: int) -> None:
        """Allocate at least `length` entries: never fewer than double, so that it is rare."""
        if length <= self.capacity[axis]:
            return
        self.capacity[axis] = max(length, 2 * self.capacity[axis])
        self.write_documents(
            name for name, d in self.documents.items() if d["dimension_names"][-1] == axis
        )

    def add_states(self, anchor: Anchor, parameters: int) -> bool:
        """Describe optimizer states that are new, and byte rows that are longer than any before.

        Parameters
        ----------
        anchor : Anchor
            The next one.
        parameters : int
            Length of the parameter vector.

        Returns
        -------
        bool
            Whether there were any.
        """
        found = {schema.OPTIMIZER_ROW: schema.optimizer_row_document(8 + len(anchor.row))}
        for key in anchor.states:
            found[schema.OPTIMIZER + key] = schema.optimizer_document(
                parameters, self.attributes["codec"]
            )
        added = {
            name: document
            for name, document in found.items()
            if name not in self.documents or self.documents[name]["shape"][0] < document["shape"][0]
        }
        self.documents |= added
        self.write_documents(added)
        return bool(added)

    def look_up_capacity(self, lengths: Mapping[str, int]) -> None:
        """Find out what was allocated before, at least these lengths."""
        for axis, length in lengths.items():
            own = read_own_document(self._storage, axis, self.documents[axis])
            self.capacity[axis] = max(length, own["shape"][-1] if own else 0)

    def mend(self) -> None:
        """Make the arrays' own metadata agree: their writer may have died while it grew them."""
        mend_documents(self._storage, self.documents, self.capacity)
        # It may have died before it synced them, too.
        self._storage.unsure(f"{name}/{ROOT}" for name in self.documents)


def new_attributes(
    attributes: Mapping[str, Any],
    layout: Layout,
    *,
    block: int,
    codec: str,
    mask: npt.NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """Return the root attributes of a new run.

    Parameters
    ----------
    attributes : mapping
        What the user says of it.
    layout : Layout
        The tensor table.
    block : int
        Steps of a block.
    codec : str
        Public codec name.
    mask : ndarray of bool, shape (param,), optional
        Which weights the training keeps.

    Returns
    -------
    dict
        JSON.

    Raises
    ------
    ConfigError
        If an attribute is no JSON, too large, or has a name that the store uses.
    """
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
                f"{key} cannot be stored: {error}; accepted: text, numbers but NaN and infinity, "
                "true, false, None, and lists and mappings of these"
            ) from error
    if size > MAX_ROOT_BYTES // 2:
        raise ConfigError(
            f"config and attributes take {size:,} bytes as JSON; accepted: up to "
            f"{MAX_ROOT_BYTES // 2:,}. Leave something out"
        )
    copy: dict[str, Any] = json.loads(json.dumps(dict(attributes), allow_nan=False))
    return copy
