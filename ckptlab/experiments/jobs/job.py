"""What a job is: a frozen description that its result can be found by.

A job names what it starts from by content: a recording
by the digests of its snapshots, another job by the hash of its own description. The same experiment
asked for twice is therefore the same jobs, wherever the recording lies.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import xxhash
from pydantic import Field

from ckptlab.store.read.reader import StoredRun
from ckptlab.train.config import Config, as_written, canonical
from ckptlab.train.sections import Section

VERSION = 1
"""Part of every hash; raised when the same description comes to mean something else."""

# Where data lie and how files are written does not change a result.
_WITHOUT_EFFECT: Mapping[str, tuple[str, ...]] = {
    "data": ("root",),
    "record": ("memory", "budget", "flush_seconds", "sync_seconds", "fsync"),
}

RunId = Annotated[str, Field(pattern=r"^(run|job):[0-9a-f]{16}$")]
Share = Annotated[float, Field(gt=0, lt=1)]


class Source(Section):
    """The state a training begins from.

    Parameters
    ----------
    run : str
        Id of a recording or a job.
    step : int
        Step of it.
    at : int or None
        Number the step has in the new training; None is the same.
    optimizer : str
        ``stored``: it goes on exactly; ``fresh``: without momentum, as rewinding does.
    """

    run: RunId
    step: int
    at: int | None = None
    optimizer: Literal["stored", "fresh"] = "fresh"

    @property
    def number(self) -> int:
        """Number the step has in the new training."""
        return self.step if self.at is None else self.at


class Pruning(Section):
    """A mask made by pruning.

    Parameters
    ----------
    run : str
        Whose last weights decide, within whose mask; a random mask takes the mask alone.
    method : str
        ``magnitude`` or ``random``.
    fraction : float
        Share of the survivors removed.
    levels : int
        Remove as many at once as this many levels would.
    scope : str
        ``global`` or ``layer``.
    seed : int
        Of random pruning.
    """

    type: Literal["pruning"] = "pruning"
    run: RunId
    method: Literal["magnitude", "random"] = "magnitude"
    fraction: Share
    levels: Annotated[int, Field(ge=1)] = 1
    scope: Literal["global", "layer"] = "global"
    seed: int = 0


class GivenMask(Section):
    """A mask from a file, which the experiment keeps a copy of.

    Parameters
    ----------
    digest : str
        Of the mask.
    """

    type: Literal["given"] = "given"
    digest: str


class MaskOf(Section):
    """The mask of another run.

    Parameters
    ----------
    run : str
        Its id.
    """

    type: Literal["of"] = "of"
    run: RunId


class Perturbed(Section):
    """How the weights are changed before training goes on.

    Parameters
    ----------
    kind : str
        As `perturb.parse_kind` reads it.
    seed : int
        Of permutations and noise.
    fresh_seed : int
        Of the fresh initialisation.
    """

    kind: str
    seed: int = 0
    fresh_seed: int = 0


class TrainJob(Section):
    """A training whose recording is the result.

    Parameters
    ----------
    config : Config
        Settings.
    source : Source or None
        What it begins from; None is the initialisation.
    mask : Pruning, GivenMask, MaskOf or None
        What it keeps; None is everything.
    perturbation : Perturbed or None
        Needs a source.
    """

    type: Literal["train"] = "train"
    config: Config
    source: Source | None = None
    mask: Annotated[Pruning | GivenMask | MaskOf, Field(discriminator="type")] | None = None
    perturbation: Perturbed | None = None


class MeasureJob(Section):
    """A metric of a run, whose result is a small Dataset.

    Parameters
    ----------
    metric : str
        Name in the registry of metrics.
    run : str
        Id of the run.
    other : str or None
        Id of a second run, for `connectivity`.
    options : mapping
        Of the metric; JSON.
    """

    type: Literal["measure"] = "measure"
    metric: str
    run: RunId
    other: RunId | None = None
    options: dict[str, Any] = Field(default_factory=dict)


Job = TrainJob | MeasureJob


def parse_job(text: str) -> Job:
    """Read a job written by `write_job`."""
    document = json.loads(text)
    if document["type"] != "train":
        return MeasureJob.model_validate(document)
    return TrainJob.model_validate({**document, "config": as_written(document["config"])})


def write_job(job: Job) -> str:
    """Write a job as JSON."""
    return json.dumps(job.model_dump(mode="json"), sort_keys=True)


def job_id(job: Job) -> str:
    """Return the id of a job: ``job:`` and 16 hexadecimal digits.

    Parameters
    ----------
    job : Job
        The description.

    Returns
    -------
    str
        The xxh3_64 of its canonical JSON, without what has no effect on the result.
    """
    document = job.model_dump(mode="json")
    if isinstance(job, TrainJob):
        document["config"] = canonical(job.config)
    for section, keys in _WITHOUT_EFFECT.items():
        for key in keys:
            document.get("config", {}).get(section, {}).pop(key, None)
    return "job:" + _digest({"version": VERSION, **document})


def run_id(stored: StoredRun) -> str:
    """Return the id of a recording: ``run:`` and 16 hexadecimal digits.

    Parameters
    ----------
    stored : StoredRun
        The recording.

    Returns
    -------
    str
        From its settings, steps and digests of all snapshots.
    """
    content = {
        "config": stored.attributes.get("config"),
        "steps": stored.steps.tolist(),
        "digests": stored.small("digest").tolist(),
        "mask": stored.attributes.get("mask_digest"),
    }
    return "run:" + _digest(content)


def ids_in(job: Job) -> Iterator[str]:
    """Yield the ids of the runs a job needs.

    Parameters
    ----------
    job : Job
        The description.

    Yields
    ------
    str
        Of recordings and jobs; one may come more than once.
    """
    if isinstance(job, MeasureJob):
        yield job.run
        if job.other is not None:
            yield job.other
        return
    if job.source is not None:
        yield job.source.run
    if job.mask is not None and not isinstance(job.mask, GivenMask):
        yield job.mask.run


def _digest(document: Any) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_64_hexdigest(text.encode())
