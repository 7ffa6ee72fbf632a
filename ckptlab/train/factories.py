"""Call a factory with what its signature asks for.

Built-in entries and users' own are called alike: of what the trainer offers (``classes``,
``seed``, …) a function gets what it has parameters for, and of its other parameters the options
that the settings name.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from ckptlab.errors import CkptlabError, ConfigError, PluginError, unknown_name
from ckptlab.registry import resolve

Factory = Callable[..., Any] | str
"""A function or class, or the ``"module:function"`` string of a built-in one."""


def call(
    factory: Factory,
    parameter: str,
    offered: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Call a factory with the offered arguments it takes, and with options.

    Parameters
    ----------
    factory : callable or str
        A function or class, or where a built-in one is.
    parameter : str
        The setting that names it, for errors: ``"model.name"``.
    offered : mapping
        Arguments by name; those the factory has no parameter for are left out.
    options : mapping, optional
        Arguments the user names; each must be a parameter, of the type it is annotated with.

    Returns
    -------
    object
        What the factory returns.

    Raises
    ------
    ConfigError
        If an option is unknown, missing or of another type.
    PluginError
        If a user's factory fails.
    """
    if isinstance(factory, str):
        built_in = resolve(factory)
        return built_in(**arguments(built_in, parameter, offered))
    found = arguments(factory, parameter, offered, options)
    try:
        return factory(**found)
    except CkptlabError:
        raise
    # Whatever a user's code raises is told in one line; --debug shows where.
    except Exception as error:
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
        raise PluginError(f"{parameter}: {_name(factory)} failed: {problem}") from error


def arguments(
    function: Callable[..., Any],
    parameter: str,
    offered: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the keyword arguments that `call` passes."""
    options = options or {}
    section = parameter.partition(".")[0]
    table = f"{section}.options" if parameter.endswith("name") else f"{parameter}_options"
    parameters = _parameters(function)
    named = {k for k, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
    anything = len(named) < len(parameters)
    for key in options:
        if key in offered or (key not in named and not anything):
            accepted = sorted(named - offered.keys())
            raise unknown_name(f"option of {parameter} {_name(function)}:", key, accepted)
    taken = {k: v for k, v in offered.items() if k in named}
    hints = _hints(function) if options else {}
    found = taken | {k: _typed(f"{table}.{k}", v, hints) for k, v in options.items()}
    for key in parameters:
        required = parameters[key].default is inspect.Parameter.empty
        if key in named and key not in found and required:
            raise ConfigError(
                f"{parameter}: {_name(function)} needs {key}; set {table}.{key}=..., or "
                "give it a default"
            )
    return found


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        # Some functions written in C have no signature: they get the options alone.
        parameters = inspect.signature(lambda **_: None).parameters
    return {k: p for k, p in parameters.items() if p.kind is not p.VAR_POSITIONAL}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    target = function.__init__ if inspect.isclass(function) else function
    try:
        return typing.get_type_hints(target)
    except (NameError, TypeError):
        return {}


def _typed(key: str, value: Any, hints: Mapping[str, Any]) -> Any:
    """Check an option against the annotation of its parameter; lists may become tuples."""
    hint = hints.get(key.rpartition(".")[2])
    if hint is None:
        return value
    try:
        return TypeAdapter(hint).validate_python(value, strict=not isinstance(value, list))
    except ValidationError as error:
        wanted = getattr(hint, "__name__", None) or str(hint)
        raise ConfigError(f"{key}={value!r:.80} is not accepted; accepted: {wanted}") from error
    except PydanticUserError:
        return value


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))
