"""Describe jobs: frozen settings whose hash names the result.

A job names what it starts from by content: a recording by the digests of its snapshots, another job
by the hash of its own description. The same experiment asked for twice is the same jobs, wherever
the recording lies.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import xxhash
from pydantic import Field

from ckptlab.store.read.reader import StoredRun
from ckptlab.train.config import Config, as_written, canonical, parse_config
from ckptlab.train.resume import has_settings
from ckptlab.train.sections import Section

VERSION = 1
"""Part of every hash; raised when the same description comes to mean something else."""

# Where data lie and how files are written does not change a result.
_WITHOUT_EFFECT: Mapping[str, tuple[str, ...]] = {
    "data": ("root",),
    "record": ("memory", "budget", "flush_seconds", "sync_seconds", "fsync", "outage_seconds"),
}

# Fields added since VERSION 1: unset, they are left out of the hash, so that older results count.
_ADDED: Mapping[str, tuple[str, ...]] = {
    "mask": ("keep", "code", "shuffle_seed", "at", "rounds", "structure"),
    "perturbation": ("code", "initial", "sigma"),
}

RunId = Annotated[str, Field(pattern=r"^(run|job):[0-9a-f]{16}$")]
Share = Annotated[float, Field(gt=0, lt=1)]


class BranchPoint(Section):
    """The state a training begins from: a step of a recording or of another job.

    `at` is the number that the step has in the new training, by default the same. With `optimizer`
    ``stored`` training continues exactly; ``fresh`` drops the momentum, as rewinding does.
    """

    run: RunId
    step: int
    at: int | None = None
    optimizer: Literal["stored", "fresh"] = "fresh"

    @property
    def number(self) -> int:
        """Number of the step in the new training."""
        return self.step if self.at is None else self.at


class Pruning(Section):
    """A mask made by pruning the weights of `run` within its own mask: the last, or those `at`.

    `method` names a pruning criterion and `code` is the digest of its source if a user wrote it;
    `levels` removes as much at once as that many levels would, in as many `rounds`; `structure`
    ``filter`` removes whole filters; tensors in `keep` stay whole.
    """

    type: Literal["pruning"] = "pruning"
    run: RunId
    method: str = "magnitude"
    fraction: Share
    levels: Annotated[int, Field(ge=1)] = 1
    scope: Literal["global", "layer"] = "global"
    seed: int = 0
    keep: Annotated[tuple[str, ...], Field(strict=False)] = ()
    code: str = ""
    at: int | None = None
    rounds: int | None = None
    structure: Literal["", "filter"] = ""


class GivenMask(Section):
    """A mask from a file, which the experiment keeps a copy of under its digest."""

    type: Literal["given"] = "given"
    digest: str


class MaskOf(Section):
    """The mask of another run; with a seed, shuffled within each tensor."""

    type: Literal["of"] = "of"
    run: RunId
    shuffle_seed: int | None = None


Mask = Annotated[Pruning | GivenMask | MaskOf, Field(discriminator="type")]


class Perturbed(Section):
    """How the weights change before training continues.

    `kind` is what `parse_kind` reads and `code` the digest of its source if a user wrote it; `seed`
    draws permutations and noise, `fresh_seed` another initialisation. `initial` is the run that
    holds step 0 where the perturbed one branched from it. `sigma` is ``drawn`` where the initial
    standard deviations are those of drawn initialisations, not √(2 / fan_in).
    """

    kind: str
    seed: int = 0
    fresh_seed: int = 0
    code: str = ""
    initial: RunId | None = None
    sigma: Literal["", "drawn"] = ""


class TrainJob(Section):
    """A training whose recording is the result.

    Without `source` it begins at the initialisation, without `mask` it keeps every weight; a
    perturbation needs a source.
    """

    type: Literal["train"] = "train"
    config: Config
    source: BranchPoint | None = None
    mask: Mask | None = None
    perturbation: Perturbed | None = None


class MeasureJob(Section):
    """A metric of a run, whose result is a small Dataset; `connectivity` takes a second run."""

    type: Literal["measure"] = "measure"
    metric: str
    run: RunId
    other: RunId | None = None
    options: dict[str, Any] = Field(default_factory=dict)


Job = TrainJob | MeasureJob


def parse_job(text: str) -> Job:
    """Read a job written by `write_job`."""
    description = json.loads(text)
    if description["type"] != "train":
        return MeasureJob.model_validate(description)
    config = as_written(description["config"])
    return TrainJob.model_validate({**description, "config": config})


def write_job(job: Job) -> str:
    """Write a job as JSON."""
    return json.dumps(job.model_dump(mode="json"), sort_keys=True)


def job_id(job: Job) -> str:
    """Return ``job:`` and the xxh3_64 of the description, without what cannot change the result."""
    description = job.model_dump(mode="json")
    if isinstance(job, TrainJob):
        description["config"] = canonical(job.config)
    for section, keys in _WITHOUT_EFFECT.items():
        for key in keys:
            description.get("config", {}).get(section, {}).pop(key, None)
    for part, keys in _ADDED.items():
        held = description.get(part) or {}
        for key in keys:
            if not held.get(key) and held.get(key) != 0:
                held.pop(key, None)
    return "job:" + _digest({"version": VERSION, **description})


def run_id(stored: StoredRun) -> str:
    """Return ``run:`` and a hash of a recording's settings, steps and digests of all snapshots."""
    config = stored.attributes.get("config")
    if has_settings(stored.attributes):
        config = canonical(parse_config(as_written(config or {})))
    content = {
        "config": config,
        "steps": stored.steps.tolist(),
        "digests": stored.small("digest").tolist(),
        "mask": stored.attributes.get("mask_digest"),
    }
    return "run:" + _digest(content)


def ids_in(job: Job) -> Iterator[str]:
    """Yield the ids of the recordings and jobs that a job needs; one may come more than once."""
    if isinstance(job, MeasureJob):
        yield job.run
        if job.other is not None:
            yield job.other
        return
    if job.source is not None:
        yield job.source.run
    if job.mask is not None and not isinstance(job.mask, GivenMask):
        yield job.mask.run
    if job.perturbation is not None and job.perturbation.initial is not None:
        yield job.perturbation.initial


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_64_hexdigest(text.encode())
