"""Registries: the named entries of one kind, which users extend without touching the package.

An entry comes from the package itself or through one of three doors:

1. a decorator such as ``@ckptlab.metric`` in a user's module or in a ``--plugin FILE.py``;
2. an entry point such as ``ckptlab.metrics`` of an installed package;
3. ``module:object``, wherever a name is asked for.

Reading a run never imports code: a ``module:object`` name is imported only once the user has named
it in this process (`allow`).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from ckptlab.errors import PluginError, UntrustedNameError, unknown_name
from ckptlab.extras import explained


class PluginWarning(UserWarning):
    """An installed package offers an entry that cannot be used."""


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str:
        """What users write."""


Entry = TypeVar("Entry", bound=Named)
Target = TypeVar("Target")

PLUGIN_PREFIX = "ckptlab_plugin_"
"""Modules of plug-in files are named so, and by the file's stem."""

_allowed: set[str] = set()


def allow(name: str) -> None:
    """Let a run name this code: it is imported when the run is resumed, branched or replayed.

    Parameters
    ----------
    name : str
        ``"package.module:object"``, as the run's settings have it.
    """
    _allowed.add(name)


def allowed() -> frozenset[str]:
    """Return the ``module:object`` names that the user has written in this process."""
    return frozenset(_allowed)


def is_reference(name: str) -> bool:
    """Say whether a name has the form ``module:object``."""
    module, colon, attribute = name.partition(":")
    parts = (*module.split("."), *attribute.split("."))
    return bool(colon) and all(part.isidentifier() for part in parts)


def resolve(reference: str) -> Any:
    """Import what the package's own ``"module:object"`` string names."""
    module, _, attribute = reference.partition(":")
    with explained(attribute.replace("_", " ")):
        found: Any = import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def origin_of(target: Any) -> str:
    """Say where an object is defined: ``module:object``, or ``FILE.py:object`` of a plug-in."""
    module = getattr(target, "__module__", "?")
    if module.startswith(PLUGIN_PREFIX) and module in sys.modules:
        module = str(sys.modules[module].__file__)
    return f"{module}:{getattr(target, '__qualname__', type(target).__qualname__)}"


def name_of(target: Any) -> str:
    """Return the name that a function or class is registered under: its own, with dashes."""
    return str(getattr(target, "__name__", "")).replace("_", "-")


class Registry(Mapping[str, Entry], Generic[Entry]):
    """The entries of one kind, by name and in the order of registration.

    Parameters
    ----------
    kind : str
        What an entry is, in errors: ``"metric"``.
    entries : iterable of entries
        Those of the package.
    adapt : callable, optional
        ``adapt(name, object)`` makes an entry of what an entry point or ``module:object`` names;
        a TypeError or ValueError it raises says what is wrong with the object.
    group : str, optional
        The entry-point group, ``"ckptlab.metrics"``.
    """

    def __init__(
        self,
        kind: str,
        entries: Iterable[Entry] = (),
        *,
        adapt: Callable[[str, Any], Entry] | None = None,
        group: str | None = None,
    ) -> None:
        self.kind = kind
        self._attribute = f"ckptlab_{kind.replace(' ', '_')}"
        self._adapt = adapt
        self._group = group
        self._entries: dict[str, Entry] = {}
        self._origins: dict[str, str] = {}
        self._loading = False
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry, origin: str = "ckptlab") -> Entry:
        """Register an entry.

        Parameters
        ----------
        entry : entry
            Its name must be free. The same origin may replace its own entry, so that a notebook
            cell can run again.
        origin : str
            Where the entry comes from: ``"package.module:object"`` or a file.

        Returns
        -------
        entry
            The same entry.

        Raises
        ------
        PluginError
            If another origin has that name.
        """
        if self._loading:
            # A decorator in a module that an entry point names: the entry point registers it.
            return entry
        taken = self._origins.get(entry.name)
        if taken is not None and (taken != origin or origin == "ckptlab"):
            raise PluginError(
                f"{origin} registers the {self.kind} {entry.name!r}, which {taken} has registered "
                "already. Choose another name.",
                file=origin,
            )
        self._entries[entry.name] = entry
        self._origins[entry.name] = origin
        return entry

    def decorate(self, target: Target, entry: Entry) -> Target:
        """Register the entry of what a decorator was put on, which `entry_of` finds again."""
        self.add(entry, origin_of(target))
        setattr(target, self._attribute, entry)
        return target

    def entry_of(self, target: Any) -> Entry | None:
        """Return the entry that a decorator made of an object; None if there is none."""
        return getattr(target, self._attribute, None)

    def find(self, name: str, parameter: str | None = None) -> Entry:
        """Return the entry of a name, importing ``module:object`` if the user wrote it.

        Parameters
        ----------
        name : str
            A registered name or ``module:object``.
        parameter : str, optional
            The setting that was given the name, for the error: ``"model.name"``.

        Returns
        -------
        entry
            The entry.

        Raises
        ------
        UnknownNameError
            If no entry has that name; it suggests the nearest.
        UntrustedNameError
            If a run, not the user, names ``module:object``.
        PluginError
            If ``module:object`` cannot be imported or is not what is asked for.
        """
        if name in self._entries:
            return self._entries[name]
        if self._adapt is not None and is_reference(name):
            given = f"{parameter}={name}" if parameter else f"{self.kind} {name}"
            return self._import(name, given, self._adapt)
        self._load_entry_points()
        if name not in self._entries:
            raise unknown_name(parameter or self.kind, name, self._entries)
        return self._entries[name]

    def knows(self, name: str) -> bool:
        """Say whether `find` could find the name, without importing any ``module:object``."""
        if name in self._entries or (self._adapt is not None and is_reference(name)):
            return True
        self._load_entry_points()
        return name in self._entries

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            self._load_entry_points()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._load_entry_points()
        return iter(tuple(self._entries))

    def __len__(self) -> int:
        self._load_entry_points()
        return len(self._entries)

    def _import(self, name: str, given: str, adapt: Callable[[str, Any], Entry]) -> Entry:
        if name not in _allowed:
            raise UntrustedNameError(
                f"the run names {given}, code that is not part of ckptlab. If you trust "
                f"it, allow it: ckptlab --allow {name} …, or ckptlab.allow({name!r}) in Python."
            )
        target = import_user(name, given)
        try:
            return adapt(name, target)
        except (TypeError, ValueError) as error:
            raise PluginError(f"{given}: {error}") from error

    def _load_entry_points(self) -> None:
        """Register what installed packages offer; what fails is left out with one warning."""
        if self._group is None or self._adapt is None:
            return
        group, self._group = self._group, None
        for point in metadata.entry_points(group=group):
            package = point.dist.name if point.dist else point.value
            taken = self._origins.get(point.name) not in (None, point.value)
            name = f"{package}.{point.name}" if taken else point.name
            try:
                target = self._load(point)
                self.add(self._adapt(name, target), point.value)
            # Whatever somebody else's module raises, the rest of ckptlab goes on.
            except Exception as error:
                problem = f"{type(error).__name__}: {error}".splitlines()[0]
                warnings.warn(
                    f"{package} offers the {self.kind} {point.name!r} ({point.value}), which is "
                    f"left out: {problem}. Update or uninstall {package}.",
                    PluginWarning,
                    stacklevel=2,
                )

    def _load(self, point: metadata.EntryPoint) -> Any:
        self._loading = True
        try:
            return point.load()
        finally:
            self._loading = False


def import_user(reference: str, given: str) -> Any:
    """Import a user's ``module:object``, also from the working directory.

    Parameters
    ----------
    reference : str
        ``"package.module:object"``.
    given : str
        How the user gave it, for the error: ``"model.name=mine:small"``.

    Returns
    -------
    object
        What it names.

    Raises
    ------
    PluginError
        If the module fails to import or lacks the object.
    """
    # A console script has its own folder on the path where `python` has the working directory.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    module, _, attribute = reference.partition(":")
    try:
        found: Any = import_module(module)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
        raise PluginError(
            f"{given}: {module} cannot be imported ({problem}). Run where it can "
            "be, or put its folder on PYTHONPATH."
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [name for name in vars(found) if not name.startswith("_")]
            raise unknown_name(f"{given}: object of {module}", part, names)
        found = getattr(found, part)
    return found
