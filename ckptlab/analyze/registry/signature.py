"""Read the options of a metric from its function: names, types, defaults and help.

A function of the package is read from its source file without importing it, so that help needs
neither numpy nor numba.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

REQUIRED = inspect.Parameter.empty
"""The default of a parameter that has none."""


@dataclass(frozen=True, slots=True)
class Argument:
    """A parameter of a function; `annotation` is its type as written, empty if it has none."""

    name: str
    annotation: str
    default: Any
    help: str


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function declares; `rest` is the type of ``**kwargs``, `place` is ``file:line``."""

    arguments: tuple[Argument, ...]
    rest: str
    docstring: str
    place: str

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring, on one line."""
        return " ".join(self.docstring.split("\n\n")[0].split())


def read_signature(function: Callable[..., Any] | str, positional: int = 1) -> Signature:
    """Read a function, or the one that ``"module:function"`` names, leaving out its inputs."""
    if isinstance(function, str):
        return _from_source(function)
    code = inspect.unwrap(function).__code__
    docstring = inspect.getdoc(function) or ""
    texts = _parameter_texts(docstring)
    parameters = list(inspect.signature(function).parameters.values())[positional:]
    arguments = [
        Argument(p.name, _written(p.annotation), p.default, texts.get(p.name, ""))
        for p in parameters
        if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    rest = next((_written(p.annotation) for p in parameters if p.kind is p.VAR_KEYWORD), "")
    place = f"{code.co_filename}:{code.co_firstlineno}"
    return Signature(tuple(arguments), rest, docstring, place)


def _from_source(reference: str) -> Signature:
    module, _, name = reference.partition(":")
    path, functions = _functions(module)
    node = functions[name]
    docstring = ast.get_docstring(node) or ""
    texts = _parameter_texts(docstring)
    arguments = [
        Argument(
            a.arg,
            ast.unparse(a.annotation) if a.annotation else "",
            REQUIRED if default is None else ast.literal_eval(default),
            texts.get(a.arg, ""),
        )
        for a, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    ]
    rest = node.args.kwarg
    written = ast.unparse(rest.annotation) if rest is not None and rest.annotation else ""
    return Signature(tuple(arguments), written, docstring, f"{path}:{node.lineno}")


@cache
def _functions(module: str) -> tuple[str, dict[str, ast.FunctionDef]]:
    spec = find_spec(module)
    path = str(spec.origin) if spec else module
    body = ast.parse(Path(path).read_text(encoding="utf-8")).body
    return path, {node.name: node for node in body if isinstance(node, ast.FunctionDef)}


def _written(annotation: Any) -> str:
    """Return an annotation as it is written; ``from __future__ import annotations`` keeps text."""
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _parameter_texts(docstring: str) -> dict[str, str]:
    """Return the numpydoc description of each parameter, on one line."""
    _, _, section = docstring.partition("Parameters\n----------\n")
    section = re.split(r"\n\S[^\n]*\n-{3,}\n", section)[0]
    entries = re.findall(r"^(\w+)(?: *:[^\n]*)?\n((?:[ \t]+[^\n]*\n?|\n)+)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}
