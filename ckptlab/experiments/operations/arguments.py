"""Call user code with the arguments it names, and read its options from its signature."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import xxhash

from ckptlab.registry import is_reference


def call(function: Callable[..., Any], available: Mapping[str, Callable[[], Any]]) -> Any:
    """Call a function with those of the available arguments that its parameters name."""
    names = inspect.signature(function).parameters
    return function(**{name: make() for name, make in available.items() if name in names})


def options_of(
    function: Callable[..., Any], available: Collection[str]
) -> dict[str, inspect.Parameter]:
    """Return the parameters that are options: those with defaults that are not arguments.

    TypeError if a parameter is neither.
    """
    options = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in available:
            continue
        if parameter.default is parameter.empty:
            raise TypeError(
                f"its parameter {name!r} is neither an argument nor has a default; arguments: "
                f"{', '.join(available)}"
            )
        options[name] = parameter
    return options


def parse_options(text: str, options: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Read ``key=value,…``, each value of its default's type; ValueError if it is not that."""
    found = {name: parameter.default for name, parameter in options.items()}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals or name not in options:
            raise ValueError(text)
        found[name] = _value(value, options[name].default)
    return found


def write_options(options: Mapping[str, Any]) -> str:
    """Write options as `parse_options` reads them."""
    return ",".join(f"{name}={value}" for name, value in options.items())


def reference_in(text: str) -> str | None:
    """Return the ``module:object`` that a kind such as ``module:object:a=1`` begins with.

    A misspelt name such as ``shuffel:layer`` has the same form, but there is no such module.
    """
    module, _, rest = text.strip().partition(":")
    name = f"{module}:{rest.partition(':')[0]}"
    if not is_reference(name):
        return None
    known = "." in module or module in sys.modules or Path(f"{module}.py").is_file()
    return name if known or find_spec(module) is not None else None


def code_digest(function: Callable[..., Any]) -> str:
    """Return the hash of a function's source, so that results of an older one do not count."""
    try:
        return xxhash.xxh3_64_hexdigest(inspect.getsource(function).encode())
    except (OSError, TypeError):
        return ""


def first_line(function: Callable[..., Any]) -> str:
    """Return the first line of a docstring, as documentation of an entry."""
    return (inspect.getdoc(function) or "").partition("\n")[0]


def _value(text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise ValueError(text)
        return text == "true"
    return type(default)(text) if isinstance(default, int | float) else text
