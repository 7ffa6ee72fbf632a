"""Declare settings: the base of all sections, their field types, and three of the sections.

A setting that names a registry entry (``data.name``) chooses a class of settings: each entry of
`optim`, `data` and `task` takes its own. Those classes stand with their registries.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ckptlab.errors import StepError
from ckptlab.record import defaults
from ckptlab.record.schedule import Schedule, parse_schedule, parse_step
from ckptlab.registry import Registry, is_reference
from ckptlab.store.format.codecs import PUBLIC_CODECS, public_codecs
from ckptlab.train.settings import UNKNOWN_NAME

AUTO = "auto"
"""The codec that a calibration replaces when a recording begins."""

OTHER = "other"
"""Tag of the settings of entries that users add."""

# The length of an epoch is not known yet: a range is refused if it is empty for both of these.
_LONG_EPOCH, _SHORT_EPOCH = 10**9, 1


def setting(default: Any, description: str, accepted: str, **options: Any) -> Any:
    """Declare a field with its documentation and, for errors, the values it accepts."""
    extra: dict[str, Any] = {"accepted": accepted}
    return Field(default, description=description, json_schema_extra=extra, **options)


def _step(value: int | str) -> int | str:
    try:
        parse_step(value, _LONG_EPOCH)
    except StepError as error:
        raise ValueError(str(error)) from error
    return value


def _parts(text: str) -> list[Schedule]:
    """Parse each part of a schedule for whichever length of an epoch lets it hold a step."""
    parts = []
    for part in re.split(r"\s*,\s*", text):
        try:
            parts.append(parse_schedule(part, _LONG_EPOCH))
        except StepError as error:
            try:
                parts.append(parse_schedule(part, _SHORT_EPOCH))
            except StepError:
                raise ValueError(str(error)) from error
    return parts


def _schedule(value: str) -> str:
    _parts(value)
    return value


def _stretches(value: str) -> str:
    for part in _parts(value):
        if part.per_decade or any(r.stride != 1 for r in part.ranges):
            raise ValueError("a stage has every step of its ranges: A:B, without stride or log")
    return value


def _text(value: object) -> object:
    """Turn a bare number back into the text that was written."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _split(value: object) -> object:
    """Take ``"a,b"`` for a list, and one item for a list of it."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return (value,) if isinstance(value, int) else value


def _one_of(accepted: tuple[str, ...]) -> AfterValidator:
    """Accept these names, suggesting the nearest for another."""

    def check(name: str) -> str:
        if name not in accepted:
            raise unknown(accepted)
        return name

    return AfterValidator(check)


def _codec(name: str) -> str:
    """Accept the codecs that users choose, and ``auto``."""
    if name != AUTO and not (name in public_codecs() or is_reference(name)):
        raise unknown((*public_codecs(), AUTO))
    return name


Count = Annotated[int, Field(ge=1, lt=2**31)]
Whole = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Step = Annotated[int | str, AfterValidator(_step)]
StepSchedule = Annotated[str, BeforeValidator(_text), AfterValidator(_schedule)]
# TOML has no null, and files say none as the command line does.
MaybeSchedule = Annotated[
    StepSchedule | None, BeforeValidator(lambda value: None if value == "none" else value)
]
Stretches = Annotated[str, BeforeValidator(_text), AfterValidator(_stretches)]
Steps = Annotated[tuple[Step, ...], Field(strict=False), BeforeValidator(_split)]
Memory = Annotated[
    str, Field(pattern=r"^(?i:\s*\d+(\.\d+)?\s*[kmgt]?(i?b)?\s*)$"), BeforeValidator(_text)
]
Pair = Annotated[tuple[Fraction, Fraction], Field(strict=False)]


class Section(BaseModel):
    """Base of all settings: frozen, keyword-only, no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Choice(Section):
    """Base of settings that an entry of a registry takes; ``none`` clears one of them."""

    @model_validator(mode="before")
    @classmethod
    def _without_none(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        fields = cls.model_fields
        optional = {key for key in fields if fields[key].default is None}
        return {k: v for k, v in values.items() if v is not None or k in optional}

    def __hash__(self) -> int:
        # Options of a user's entry are a dict, which alone has no hash.
        return hash((type(self), self.model_dump_json()))


def name_of(registry: Registry[Any]) -> AfterValidator:
    """Accept the names a registry knows, without importing any ``module:object``."""

    def check(name: str) -> str:
        if not registry.knows(name):
            raise unknown(list(registry))
        return name

    return AfterValidator(check)


def unknown(accepted: Iterable[str]) -> PydanticCustomError:
    """Build the error for a name that is none of the accepted ones."""
    return PydanticCustomError(UNKNOWN_NAME, "unknown name", {"accepted": list(accepted)})


def by_name(default: str, tags: Mapping[str, str]) -> Discriminator:
    """Choose the class of settings by the key ``name``.

    `tags` gives the tag of each built-in name; all others are tagged `OTHER`.
    """

    def tag(values: Any) -> str:
        name = values.get("name", default) if isinstance(values, Mapping) else values
        name = getattr(name, "name", name)
        return tags.get(name, OTHER) if isinstance(name, str) else OTHER

    return Discriminator(tag)


def options_of(what: str) -> Any:
    """Declare the table of options that a user's entry takes."""
    return setting(
        {},
        f"keyword arguments of your own {what}",
        "a table such as {depth = 3}, or options.depth=3",
        exclude_if=lambda options: not options,
    )


class TrainConfig(Section):
    """Length, batches, seeds and numerics."""

    steps: Step = setting(500, "number of updates", "500, 500it or 2ep")
    batch_size: Count = setting(128, "images an update", "a whole number >= 1")
    seed: Seed = setting(0, "what all seeds default to", "a whole number >= 0")
    init_seed: Seed | None = setting(None, "initial weights", "a whole number >= 0")
    order_seed: Seed | None = setting(None, "order of the images", "a whole number >= 0")
    augment_seed: Seed | None = setting(None, "crops, flips and dropout", "a whole number >= 0")
    task_seed: Seed | None = setting(
        None, "random labels, and the turns of rotated images", "a whole number >= 0"
    )
    threads: Count | None = setting(None, "CPU threads; default: torch's", "a whole number >= 1")
    device: Literal["auto", "cpu", "cuda"] = setting(
        "auto", "where to train; auto: CUDA if there is one", "auto, cpu or cuda"
    )
    deterministic: bool = setting(True, "only deterministic algorithms", "true or false")
    graph: bool = setting(True, "on CUDA: updates as CUDA graphs", "true or false")
    precision: Literal["fp32", "tf32", "bf16"] = setting(
        "fp32", "of matrix products and convolutions; weights stay float32", "fp32, tf32 or bf16"
    )
    layout: Literal["auto", "contiguous", "channels_last"] = setting(
        "auto",
        "of images and weights in memory; auto: what suits device and precision",
        "auto, contiguous or channels_last",
        exclude_if=lambda layout: layout == "auto",
    )


class RecordConfig(Section):
    """What is recorded, and how."""

    steps: StepSchedule = setting(
        defaults.STEPS, "steps that are recorded; the last always is", "ranges A:B[:stride], log:N"
    )
    observe: MaybeSchedule = setting(
        None,
        "steps at which sums over the weights are kept, stored or not",
        "ranges A:B[:stride], log:N or none",
    )
    arrays: Annotated[
        tuple[Annotated[str, _one_of(defaults.ARRAYS)], ...],
        Field(strict=False, min_length=1),
        BeforeValidator(_split),
    ] = setting(("weights",), "what is recorded", "weights, gradients")
    codec: Annotated[str, AfterValidator(_codec)] = setting(
        defaults.CODEC,
        "how it is compressed; auto: the densest that fits the budget",
        f"{', '.join(PUBLIC_CODECS)}, {AUTO} or module:object",
    )
    budget: Positive = setting(
        defaults.BUDGET, "auto: share of a step that compression may cost", "a number > 0"
    )
    repack: bool = setting(
        False, "once complete, a run of another codec is repacked densely", "true or false"
    )
    memory: Memory = setting(
        defaults.MEMORY, "for blocks in the making", "bytes, or a size such as 512MiB"
    )
    flush_seconds: Positive = setting(
        defaults.FLUSH_SECONDS, "a block closes after this", "a number > 0"
    )
    sync_seconds: NonNegative = setting(
        defaults.SYNC_SECONDS, "most that a power loss may cost", "a number >= 0"
    )
    fsync: bool = setting(True, "whether files are synced to the disk", "true or false")
    outage_seconds: NonNegative = setting(
        defaults.OUTAGE_SECONDS,
        "retry for this long when an object store stops answering",
        "a number >= 0",
    )


class EvalConfig(Section):
    """When the test set is evaluated, besides after the last step."""

    steps: MaybeSchedule = setting(
        "0::1ep", "steps evaluated; none: only the last", "ranges A:B[:stride], log:N or none"
    )
    batch_size: Count | None = setting(
        None, "images at a time; default: 256, on CUDA 2048", "a whole number >= 1"
    )
