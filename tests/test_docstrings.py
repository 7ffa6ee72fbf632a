"""What users call is documented in full: every parameter, what comes back, a one-line summary."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest
from numpydoc.validate import validate

import ckptlab
from ckptlab.analyze.registry.metrics import METRICS

ASKED = {"GL03", "GL06", "GL07", "PR01", "PR02", "PR03", "RT01", "SS03"}


def public_names() -> Iterator[str]:
    """Name what `ckptlab` exports, with its methods, and the functions behind the metrics."""
    for name in ckptlab.__all__:
        found = getattr(ckptlab, name)
        if inspect.isroutine(found) or inspect.isclass(found):
            yield f"{found.__module__}.{found.__qualname__}"
        if inspect.isclass(found):
            for member, value in vars(found).items():
                if not member.startswith("_") and inspect.isfunction(value):
                    yield f"{found.__module__}.{found.__qualname__}.{member}"
    for metric in METRICS.values():
        yield str(metric.compute).replace(":", ".")


@pytest.mark.parametrize("name", sorted(set(public_names())))
def test_a_public_docstring_is_complete(name):
    errors = [f"{code}: {text}" for code, text in validate(name)["errors"] if code in ASKED]
    assert not errors
