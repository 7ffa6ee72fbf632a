"""Errors a user can act on: each names the value, what is accepted and the fix.

The command line prints these in one line, without a traceback.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

MOST_NAMES = 30
"""An error lists so many accepted names at most."""

_FLAG_OF: ContextVar[Callable[[str], str | None]] = ContextVar("flag_of", default=lambda _: None)


class CkptlabError(Exception):
    """Base of all errors ckptlab raises on purpose; `exit_code` is what the CLI exits with.

    Parameters
    ----------
    message : str
        One line: the value, what is accepted and the fix.
    parameter, file, problem, fix : str, optional
        The parts of the message that callers act on, so that nobody parses it: the parameter or
        setting at fault, the file, what is wrong, and what to do.
    """

    exit_code = 2

    def __init__(
        self,
        message: str = "",
        *,
        parameter: str | None = None,
        file: str | None = None,
        problem: str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(message)
        self.parameter = parameter
        self.file = file
        self.problem = problem
        self.fix = fix

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross from dask workers with all their fields.
        return (_rebuild, (type(self), self.args, self.__dict__))


class ConfigError(CkptlabError):
    """A setting has an unknown key, a wrong type or a value that is not accepted."""


class UnknownNameError(ConfigError, KeyError):
    """A name is in no registry; the message suggests the nearest one."""

    def __str__(self) -> str:
        # KeyError would quote the message.
        return str(self.args[0])


class StoppedError(CkptlabError):
    """Ctrl-C stopped the command; what was committed stays."""

    exit_code = 130


class PluginError(ConfigError):
    """A plug-in, an entry point or a ``module:object`` cannot be used."""


class UntrustedNameError(ConfigError):
    """A run names code that the user has not allowed."""


class MissingExtraError(CkptlabError):
    """An optional dependency is not installed; the message names the command that installs it."""


class StepError(CkptlabError):
    """A step range is malformed, empty or outside what was recorded."""


class MissingStepError(StepError):
    """A step was asked for that was not recorded."""


class LayoutError(CkptlabError):
    """Two things that should describe the same parameters do not."""


class UnsupportedTensorError(CkptlabError):
    """A parameter or buffer cannot be stored exactly."""


class DataError(CkptlabError):
    """A data set is missing, incomplete or not of the expected form."""


class StoreError(CkptlabError):
    """A path holds no run, or a run that cannot be used."""


class RunExistsError(StoreError):
    """The path to write to exists already."""


class FormatVersionError(StoreError):
    """The run was written in a format this version does not read."""


class LockedError(StoreError):
    """Another process is writing the run."""


class CorruptError(StoreError):
    """Stored bytes are missing or not what was written."""

    exit_code = 1


class WriteError(StoreError):
    """The store could not be written; what was committed before stays readable."""

    exit_code = 1


class NoSpaceError(WriteError):
    """The disk is full; what was committed before stays readable."""


class RecordingError(CkptlabError):
    """The recorder was used in a way that would record something else than the training."""


def _rebuild(
    kind: type[CkptlabError], arguments: tuple[Any, ...], fields: Mapping[str, Any]
) -> CkptlabError:
    error = kind(*arguments)
    error.__dict__.update(fields)
    return error


def unknown_name(what: str, name: str, accepted: Iterable[str]) -> UnknownNameError:
    """Build the error for a name that no registry entry has.

    Parameters
    ----------
    what : str
        What the name should have named, such as ``"model"``.
    name : str
        The name given.
    accepted : iterable of str
        The names that exist.

    Returns
    -------
    UnknownNameError
        With the nearest accepted name, if one is near, and all accepted ones.
    """
    choices = sorted(accepted)
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(choices)
    if len(choices) > MOST_NAMES:
        close = difflib.get_close_matches(name, choices, n=5, cutoff=0.3)
        listed = f"{len(choices)} names, such as {', '.join(close or choices[:5])}"
    return UnknownNameError(f"unknown {what} {name!r}.{hint} Accepted: {listed}.")


def spell(name: str, value: object = None) -> str:
    """Write a parameter as its user does: ``steps=0:9``, on the command line ``--steps 0:9``.

    Parameters
    ----------
    name : str
        Of the parameter in Python.
    value : object, optional
        What it is set to; without one only the parameter is named.

    Returns
    -------
    str
        For errors and warnings.
    """
    flag = _FLAG_OF.get()(name)
    if value is None:
        return flag or name
    return f"{flag} {value}" if flag else f"{name}={value}"


@contextlib.contextmanager
def spelled_as_flags(flag_of: Callable[[str], str | None]) -> Iterator[None]:
    """Let `spell` write flags.

    Parameters
    ----------
    flag_of : callable
        Returns the flag of a parameter, or None if it has none.

    Yields
    ------
    None
        While it does.
    """
    token = _FLAG_OF.set(flag_of)
    try:
        yield
    finally:
        _FLAG_OF.reset(token)
