"""Signs of the weights.

Imports analyze.{distance, moments, results}.
"""

from __future__ import annotations

from typing import Any

import xarray as xr

from ckptlab.analyze.distance import moments_against
from ckptlab.analyze.metric import METRICS
from ckptlab.analyze.moments import Moments
from ckptlab.analyze.results import compared, share
from ckptlab.analyze.selection import Reference
from ckptlab.analyze.source import Source


def sign_flips(source: Source, *, relative_to: Any = "previous", **options: Any) -> xr.DataArray:
    """Share of weights whose sign is opposite to a snapshot's.

    Parameters
    ----------
    source : Source
        The recording.
    relative_to : str or int
        ``init``, ``final``, ``previous`` or a step.
    **options : object
        As `moments_against` takes them.

    Returns
    -------
    DataArray, dims (step,) or (layer | tensor, step)
        In [0, 1]: flips over selected weights, zeros included in the count. A flip is a change
        between two non-zero signs. NaN at the first step for ``previous``, and where either
        snapshot has a NaN.
    """
    moments, reference = moments_against(source, relative_to, **options)
    return sign_flips_of(moments, reference)


def sign_flips_of(moments: Moments, reference: Reference) -> xr.DataArray:
    """Return the share of flips from counts."""
    metric = METRICS["sign-flips"]
    values = share(moments.against(reference).flips, moments.selection.weights[:, None])
    return compared(
        metric.python_name,
        values,
        moments,
        reference,
        units=metric.unit,
        long_name=metric.long_name,
    )
