"""Make the mask of a job: prune a run, take another run's, or read a file's."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.errors import LayoutError
from ckptlab.experiments.jobs.context import JobContext, problem_of
from ckptlab.experiments.jobs.folder import Folder
from ckptlab.experiments.jobs.job import GivenMask, MaskOf, Pruning, TrainJob
from ckptlab.experiments.operations.arguments import call
from ckptlab.experiments.operations.criteria import score_function
from ckptlab.experiments.operations.initialisation import layout_of
from ckptlab.experiments.operations.pruning import Mask, full_mask, prune, shuffle_mask
from ckptlab.experiments.operations.saliency import Saliency
from ckptlab.store.format.layout import Layout
from ckptlab.store.read.reader import StoredRun


def make_mask(
    job: TrainJob, mask: Pruning | GivenMask | MaskOf, context: JobContext
) -> tuple[Mask, Layout]:
    """Return which weights a job keeps, and the layout that the mask is over."""
    if isinstance(mask, GivenMask):
        layout = layout_of(job.config)
        return Folder(context.folder).mask(mask.digest, layout.parameters), layout
    stored = context.open(mask.run)
    layout, before = stored.layout, stored.mask()
    before = full_mask(layout) if before is None else before
    if isinstance(mask, Pruning):
        return _pruned(job, mask, stored, before), layout
    if mask.shuffle_seed is not None:
        before = shuffle_mask(before, layout, np.random.default_rng(mask.shuffle_seed))
    return before, layout


def _pruned(job: TrainJob, mask: Pruning, stored: StoredRun, before: Mask) -> Mask:
    function, generator = score_function(mask.method), np.random.default_rng(mask.seed)
    step = int(stored.steps[-1]) if mask.at is None else mask.at
    weights, start = (
        functools.cache(functools.partial(stored.snapshot, at))
        for at in (step, int(stored.steps[0]))
    )

    @functools.cache
    def saliency() -> Saliency:
        return Saliency(stored, step, problem_of(job.config), job.config)

    def score(at: npt.NDArray[np.int64], kept: Mask) -> npt.NDArray[Any]:
        available = {
            "weights": lambda: weights()[at],
            "start": lambda: start()[at],
            "rng": lambda: generator,
            "gradient": lambda: saliency().gradient(kept)[at],
            "hessian_gradient": lambda: saliency().hessian_gradient(kept)[at],
            "flow": lambda: saliency().flow(kept)[at],
        }
        scores = np.asarray(call(function, available))
        if scores.shape != at.shape:
            raise LayoutError(
                f"pruning {mask.method!r} returned shape {scores.shape}; accepted: {at.shape}, one "
                "score for each weight"
            )
        return scores

    return prune(
        score,
        before,
        stored.layout,
        mask.fraction,
        levels=mask.levels,
        scope=mask.scope,
        keep=mask.keep,
        structure=mask.structure,
        rounds=mask.rounds or 1,
    )
