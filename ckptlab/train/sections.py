"""The sections of a training's settings: frozen models, checked when they are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from ckptlab.errors import ConfigError, StepError, unknown_name
from ckptlab.record.schedule import parse_schedule, parse_step
from ckptlab.store.format.codecs import PUBLIC_CODECS
from ckptlab.train.datasets.registry import DATA_SOURCES
from ckptlab.train.learning_rate import RATE_SCHEDULES
from ckptlab.train.models.registry import find_model
from ckptlab.train.optimizers import OPTIMIZERS
from ckptlab.train.registry import find
from ckptlab.train.tasks.registry import TASKS, TaskEntry

RECORDABLE: tuple[str, ...] = ("weights", "gradients")
"""Large arrays a recording can hold."""

# Long enough that no range in fractions of an epoch rounds to nothing when only its form is checked
_SOME_EPOCH = 10**9


def setting(default: Any, description: str, accepted: str) -> Any:
    """Declare a field with its documentation and what an error should say is accepted.

    Parameters
    ----------
    default : object
        Its default; ``...`` if there is none.
    description : str
        One line of documentation.
    accepted : str
        In words.

    Returns
    -------
    FieldInfo
        For pydantic.
    """
    return Field(default, description=description, json_schema_extra={"accepted": accepted})


def _step(value: int | str) -> int | str:
    try:
        parse_step(value, _SOME_EPOCH)
    except StepError as error:
        raise ValueError(str(error)) from error
    return value


def _schedule(value: str) -> str:
    try:
        parse_schedule(value, _SOME_EPOCH)
    except StepError as error:
        raise ValueError(str(error)) from error
    return value


def _stretches(value: str) -> str:
    try:
        schedule = parse_schedule(value, _SOME_EPOCH)
    except StepError as error:
        raise ValueError(str(error)) from error
    if schedule.per_decade or any(part.stride != 1 for part in schedule.ranges):
        raise ValueError("a stage is every step of its ranges; write A:B, without stride or log")
    return value


def _text(value: object) -> object:
    """Take a bare number for the text it was written as."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _split(value: object) -> object:
    """Take ``"a,b"`` for a list, and one item for a list of it."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return (value,) if isinstance(value, int) else value


Count = Annotated[int, Field(ge=1, lt=2**31)]
Whole = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Step = Annotated[int | str, AfterValidator(_step)]
StepSchedule = Annotated[str, BeforeValidator(_text), AfterValidator(_schedule)]
Stretches = Annotated[str, BeforeValidator(_text), AfterValidator(_stretches)]
Steps = Annotated[tuple[Step, ...], Field(strict=False), BeforeValidator(_split)]
Memory = Annotated[
    str, Field(pattern=r"^(?i:\s*\d+(\.\d+)?\s*[kmgt]?(i?b)?\s*)$"), BeforeValidator(_text)
]
Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1), BeforeValidator(_split)]
Pair = Annotated[tuple[Fraction, Fraction], Field(strict=False)]


def _array_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in RECORDABLE:
            raise unknown_name("record.arrays", name, RECORDABLE)
    return names


AUTO = "auto"
"""What is settled when a recording begins: the codec, by a calibration."""


def _codec_name(name: str) -> str:
    if name not in (accepted := (*PUBLIC_CODECS, AUTO)):
        raise unknown_name("record.codec", name, accepted)
    return name


def _model_name(name: str) -> str:
    find_model(name)
    return name


def _data_name(name: str) -> str:
    return find(DATA_SOURCES, "data.name", name).name


def _task_name(name: str) -> str:
    return find(TASKS, "task.name", name).name


def _optimizer_name(name: str) -> str:
    return find(OPTIMIZERS, "optim.name", name).name


def _rate_schedule_name(name: str) -> str:
    return find(RATE_SCHEDULES, "optim.schedule", name).name


class Section(BaseModel):
    """Base of the sections: frozen, keyword-only, no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelConfig(Section):
    """The network; its number of answers comes from the data and the task."""

    name: Annotated[str, AfterValidator(_model_name)] = setting(
        "resnet20", "which network", "a model name"
    )
    width: Count | None = setting(
        None, "channels of the first stage; default: that of the network", "a whole number >= 1"
    )


class DataConfig(Section):
    """The data set and its augmentation."""

    name: Annotated[str, AfterValidator(_data_name)] = setting(
        "digits", "which data set", "a data name"
    )
    root: str | None = setting(None, "folder that holds the files, or is to", "a path")
    image_size: Count | None = setting(
        None, "imagefolder: resize and crop to this; synthetic: side", "a whole number >= 1"
    )
    channels: Literal[1, 3] | None = setting(
        None, "imagefolder, synthetic: grey or colour (default 3)", "1 or 3"
    )
    classes: Annotated[int, Field(ge=2)] | None = setting(
        None, "synthetic: number of classes (default 10)", "a whole number >= 2"
    )
    samples: Annotated[int, Field(ge=2)] | None = setting(
        None, "synthetic: training images (default 2048); a quarter more for the test", ">= 2"
    )
    seed: Seed | None = setting(None, "synthetic: what it is drawn from (default 0)", ">= 0")
    flip: bool | None = setting(
        None, "mirror at random; default: the data set's policy", "true or false"
    )
    crop: Whole | None = setting(
        None, "pad by this and crop at random; default: the data set's policy", "pixels, 0: off"
    )


class TaskChoice(Section):
    """One task, and what only some tasks take."""

    name: str = setting(..., "which task", "a task name")
    factor: Annotated[int, Field(ge=2)] | None = setting(
        None,
        "blur, blur-rotation: images are scaled down by this and up again (default 4)",
        "a whole number >= 2",
    )


TASK_SETTINGS: tuple[str, ...] = tuple(key for key in TaskChoice.model_fields if key != "name")
"""Settings that only some tasks take; their registry entries name them."""


class StageConfig(TaskChoice):
    """A task that takes the place of ``task.name`` over a stretch of the training."""

    steps: Stretches = setting(
        ..., "updates from these steps, half-open", 'ranges A:B such as "0:40ep"'
    )


class TaskConfig(TaskChoice):
    """What the network learns."""

    name: Annotated[str, AfterValidator(_task_name)] = setting(
        "supervised", "which task", "a task name"
    )
    stages: Annotated[tuple[StageConfig, ...], Field(strict=False)] = setting(
        (),
        "other tasks over some of the steps; evaluations stay those of task.name",
        'a list of stages such as [{name = "blur", steps = "0:40ep"}]',
    )

    @model_validator(mode="after")
    def _settings_apply(self) -> TaskConfig:
        entry = find(TASKS, "task.name", self.name)
        entries = [
            find(TASKS, f"task.stages[{place}].name", stage.name)
            for place, stage in enumerate(self.stages)
        ]
        for place, stage in enumerate(self.stages):
            _require_taken(f"task.stages[{place}]", stage, [entries[place]])
        # What is set for all of them is for those that take it.
        _require_taken("task", self, [entry, *entries])
        return self

    @property
    def filled_stages(self) -> tuple[StageConfig, ...]:
        """The stages, what they leave open filled in with the settings of the task."""
        return tuple(
            stage.model_copy(
                update={
                    key: getattr(self, key) for key in TASK_SETTINGS if getattr(stage, key) is None
                }
            )
            for stage in self.stages
        )


def _require_taken(key: str, choice: TaskChoice, entries: Sequence[TaskEntry]) -> None:
    for setting_name in TASK_SETTINGS:
        value = getattr(choice, setting_name)
        if value is not None and not any(setting_name in entry.options for entry in entries):
            takers = [entry.name for entry in TASKS if setting_name in entry.options]
            raise ConfigError(
                f"{key}.{setting_name}={value!r} does not apply to task {choice.name!r}; only "
                f"{', '.join(takers)} take it."
            )


class OptimConfig(Section):
    """The optimizer and its learning rate; update k uses the rate at step k."""

    name: Annotated[str, AfterValidator(_optimizer_name)] = setting(
        "sgd", "which optimizer", "an optimizer name"
    )
    lr: Positive = setting(0.1, "learning rate", "a number > 0")
    momentum: Fraction = setting(0.9, "sgd: momentum", "a number in [0, 1)")
    nesterov: bool = setting(False, "sgd: Nesterov's momentum", "true or false")
    weight_decay: NonNegative = setting(1e-4, "weight decay on all parameters", "a number >= 0")
    betas: Pair = setting((0.9, 0.999), "adamw: decay of the averages", "two numbers in [0, 1)")
    eps: Positive = setting(1e-8, "adamw: term in the denominator", "a number > 0")
    schedule: Annotated[str, AfterValidator(_rate_schedule_name)] = setting(
        "constant", "course of the learning rate", "a schedule name"
    )
    milestones: Steps = setting(
        (), "multistep: where the rate falls", 'steps such as ["80ep", "120ep"]'
    )
    gamma: Positive = setting(0.1, "multistep: what it falls by", "a number > 0")
    warmup: Step = setting(0, "the rate rises linearly over this many updates", "steps or epochs")


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


class RecordConfig(Section):
    """What is recorded, and how."""

    steps: StepSchedule = setting(
        "0:", "steps that are recorded; the last always is", "ranges A:B[:stride], log:N"
    )
    arrays: Annotated[Names, AfterValidator(_array_names)] = setting(
        ("weights",), "what is recorded", "weights, gradients"
    )
    codec: Annotated[str, AfterValidator(_codec_name)] = setting(
        "dense",
        "how it is compressed; auto: the densest that fits the budget",
        f"{', '.join(PUBLIC_CODECS)} or {AUTO}",
    )
    budget: Positive = setting(
        0.03, "share of a step that compression may cost under codec auto", "a number > 0"
    )
    repack: bool = setting(
        False, "once complete, a run of another codec is repacked densely", "true or false"
    )
    memory: Memory = setting("1GiB", "for blocks in the making", "bytes, or a size such as 512MiB")
    flush_seconds: Positive = setting(60.0, "a block closes after this", "a number > 0")
    sync_seconds: NonNegative = setting(
        10.0, "commits share a sync while blocks wait, for so long", "a number >= 0"
    )
    fsync: bool = setting(True, "whether files are synced to the disk", "true or false")


class EvalConfig(Section):
    """When the test set is evaluated, besides after the last step."""

    steps: StepSchedule | None = setting(
        "0::1ep", "steps evaluated; none: only the last", "ranges A:B[:stride], log:N or none"
    )
    batch_size: Count | None = setting(
        None, "images at a time; default: 256, on CUDA 2048", "a whole number >= 1"
    )
