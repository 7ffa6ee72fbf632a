"""Say in a caption which choices a result depends on, as its attributes state them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import xarray as xr

CHOICES: dict[str, str] = {
    "data": "data",
    "loss": "loss",
    "batch_norm": "batch norm",
    "batch_norm_statistics": "batch norm uses",
    "bound": "bound of stability",
    "evaluated": "evaluated",
    "precision": "precision",
    "kinds": "tensors",
    "mask": "mask",
    "ddof": "divisor of the variance, n minus",
    "level_0": "level 0",
    "never_pruned": "never pruned",
    "sub_networks": "sub-networks",
    "rate_falls": "the learning rate falls",
    "replicates": "replicates",
}
"""Attributes of results, and what captions call them."""


def choices_of(results: Iterable[xr.DataArray | xr.Dataset]) -> str:
    """Write the choices of several runs' results as one sentence; empty if they state none."""
    stated: dict[str, list[str]] = {}
    for result in results:
        for attrs in _all_attributes(result):
            for name in CHOICES:
                text = ", ".join(part.strip() for part in str(attrs.get(name, "")).split(","))
                if text and text not in stated.setdefault(name, []):
                    stated[name].append(text)
    parts = [
        f"{CHOICES[name]}: {' or '.join(stated[name])}" for name in CHOICES if stated.get(name)
    ]
    sentence = "; ".join(parts)
    return f"{sentence[:1].upper()}{sentence[1:]}." if parts else ""


def _all_attributes(result: xr.DataArray | xr.Dataset) -> list[dict[Any, Any]]:
    parts = result.data_vars.values() if isinstance(result, xr.Dataset) else ()
    return [result.attrs, *(part.attrs for part in parts)]
