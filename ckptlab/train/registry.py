"""What every registry of the trainer shares: finding an entry and importing what it names."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any, Protocol, TypeVar

from ckptlab.errors import unknown_name


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str:
        """What users write."""


Entry = TypeVar("Entry", bound=Named)


def find(entries: Iterable[Entry], what: str, name: str) -> Entry:
    """Find the entry of that name.

    Parameters
    ----------
    entries : iterable of entries
        The registry.
    what : str
        What is looked for, as the error should say it, such as ``"data.name"``.
    name : str
        The name asked for.

    Returns
    -------
    entry
        The one entry of that name.

    Raises
    ------
    UnknownNameError
        If there is none.
    """
    table = {entry.name: entry for entry in entries}
    if name not in table:
        raise unknown_name(what, name, table)
    return table[name]


def resolve(reference: str) -> Any:
    """Import what a ``"module:function"`` string names.

    Parameters
    ----------
    reference : str
        Such as ``"ckptlab.train.models.resnet:cifar_resnet"``.

    Returns
    -------
    object
        The function.
    """
    module, _, attribute = reference.partition(":")
    return getattr(import_module(module), attribute)
