"""Name the optimizers, their settings, and build them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Tag, model_validator

from ckptlab.errors import ConfigError
from ckptlab.record.schedule import parse_step
from ckptlab.registry import Registry
from ckptlab.train.factories import call
from ckptlab.train.learning_rate import RATE_SCHEDULES, LearningRate
from ckptlab.train.sections import (
    OTHER,
    Choice,
    Fraction,
    NonNegative,
    Pair,
    Positive,
    Step,
    Steps,
    by_name,
    name_of,
    options_of,
    setting,
)

if TYPE_CHECKING:
    import torch

SCHEDULED: tuple[str, ...] = ("milestones", "gamma")
"""Settings that only some learning-rate schedules take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerEntry:
    """One optimizer.

    Parameters
    ----------
    name : str
        What users write.
    build : callable or str
        Class or function called with ``params``, ``lr`` and its options; of a built-in one the
        name in ``torch.optim``.
    summary : str
        One line of documentation.
    on_cuda : tuple of str
        Arguments that must be true for it to be part of a CUDA graph.
    """

    name: str
    build: Callable[..., Any] | str
    summary: str
    on_cuda: tuple[str, ...] = ()


def optimizer_entry(name: str, build: Any, summary: str = "") -> OptimizerEntry:
    """Make an entry of a user's class or function."""
    if not callable(build):
        raise TypeError("an optimizer is a class or function that takes params, lr and options")
    doc = (build.__doc__ or "").strip().partition("\n")[0]
    return OptimizerEntry(name=name, build=build, summary=summary or doc)


OPTIMIZERS: Registry[OptimizerEntry] = Registry(
    "optimizer",
    (
        OptimizerEntry(
            name="sgd", build="SGD", summary="stochastic gradient descent with momentum"
        ),
        OptimizerEntry(
            name="adamw",
            build="AdamW",
            summary="Adam with decoupled weight decay",
            on_cuda=("capturable",),
        ),
    ),
    adapt=optimizer_entry,
    group="ckptlab.optimizers",
)


class OptimConfig(Choice):
    """The optimizer and its learning rate; update k uses the rate at step k."""

    name: str = setting("sgd", "which optimizer", "an optimizer name")
    lr: Positive = setting(0.1, "learning rate", "a number > 0")
    schedule: Annotated[str, name_of(RATE_SCHEDULES)] = setting(
        "constant", "course of the learning rate", "a schedule name"
    )
    milestones: Steps = setting(
        (), "multistep: where the rate falls", 'steps such as ["80ep", "120ep"]'
    )
    gamma: Positive = setting(0.1, "multistep: what it falls by", "a number > 0")
    warmup: Step = setting(0, "the rate rises linearly over this many updates", "steps or epochs")
    schedule_options: dict[str, Any] = options_of("schedule")

    @model_validator(mode="after")
    def _schedule_takes(self) -> Self:
        if self.schedule not in RATE_SCHEDULES:
            return self
        for key in SCHEDULED:
            value = getattr(self, key)
            default = type(self).model_fields[key].default
            if value != default and not RATE_SCHEDULES[self.schedule].takes(key):
                takers = [e.name for e in RATE_SCHEDULES.values() if e.takes(key)]
                raise ConfigError(
                    f"optim.{key}={value!r} does not apply to optim.schedule={self.schedule!r}; "
                    f"{', '.join(takers)} takes it"
                )
        return self


class SgdConfig(OptimConfig):
    """Stochastic gradient descent."""

    name: Literal["sgd"] = setting("sgd", "which optimizer", "an optimizer name")
    momentum: Fraction = setting(0.9, "momentum", "a number in [0, 1)")
    nesterov: bool = setting(False, "Nesterov's momentum", "true or false")
    weight_decay: NonNegative = setting(1e-4, "weight decay on all parameters", "a number >= 0")

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ConfigError("optim.nesterov=true needs optim.momentum above 0.")
        return self


class AdamwConfig(OptimConfig):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = setting(..., "which optimizer", "an optimizer name")
    betas: Pair = setting((0.9, 0.999), "decay of the averages", "two numbers in [0, 1)")
    eps: Positive = setting(1e-8, "term in the denominator", "a number > 0")
    weight_decay: NonNegative = setting(1e-4, "weight decay on all parameters", "a number >= 0")


class OtherOptimConfig(OptimConfig):
    """An optimizer of your own."""

    name: Annotated[str, name_of(OPTIMIZERS)] = setting(
        ..., "which optimizer", "an optimizer name or module:object"
    )
    options: dict[str, Any] = options_of("optimizer")


class ProblemOptimConfig(OptimConfig):
    """The optimizer that a problem of your own brings."""

    name: Literal["problem"] = setting(..., "which optimizer", "an optimizer name")
    lr: Positive | None = setting(  # type: ignore[assignment]
        None, "learning rate; default: those the optimizer has", "a number > 0"
    )


Optim = Annotated[
    Annotated[SgdConfig, Tag("sgd")]
    | Annotated[AdamwConfig, Tag("adamw")]
    | Annotated[ProblemOptimConfig, Tag("problem")]
    | Annotated[OtherOptimConfig, Tag(OTHER)],
    by_name("sgd", {name: name for name in ("sgd", "adamw", "problem")}),
]


def learning_rate(
    config: OptimConfig, steps: int, steps_per_epoch: int | None, base: float | None = None
) -> LearningRate:
    """Return the learning rate of every update of a run of so many steps.

    `base` is the rate of an optimizer that brings its own, for where the settings name none.
    """
    return LearningRate(
        base=(1.0 if base is None else base) if config.lr is None else config.lr,
        schedule=config.schedule,
        steps=steps,
        milestones=tuple(parse_step(step, steps_per_epoch) for step in config.milestones),
        gamma=config.gamma,
        warmup=parse_step(config.warmup, steps_per_epoch),
        options=config.schedule_options,
    )


def build_optimizer(
    config: Optim, model: torch.nn.Module, own: Callable[..., Any] | None = None
) -> torch.optim.Optimizer:
    """Build the optimizer of all parameters of a model; weight decay acts on all of them.

    `own` makes that of a problem which brings one.
    """
    from torch import optim

    offered: dict[str, Any] = {"params": list(model.parameters()), "lr": config.lr}
    if isinstance(config, ProblemOptimConfig):
        if own is None:
            raise ConfigError(
                "the problem brings no optimizer: give Problem(optimizer=...), or name one with "
                "optim.name=sgd"
            )
        return _checked(own(offered["params"]), "Problem(optimizer=...)")
    entry = OPTIMIZERS.find(config.name, "optim.name")
    if isinstance(config, OtherOptimConfig):
        made = call(entry.build, "optim.name", offered, config.options)
        return _checked(made, f"optim.name={config.name!r}")
    options = config.model_dump(exclude={*OptimConfig.model_fields})
    if next(model.parameters()).is_cuda:
        # One kernel for all tensors, that takes a learning rate on the device.
        options |= {"fused": True, **dict.fromkeys(entry.on_cuda, True)}
    else:
        # The same numbers as the loop over tensors, without Python for each of them.
        options |= {"foreach": True}
    built: torch.optim.Optimizer = getattr(optim, str(entry.build))(**offered, **options)
    return built


def _checked(made: Any, what: str) -> torch.optim.Optimizer:
    from torch import optim

    if not isinstance(made, optim.Optimizer):
        raise ConfigError(f"{what} makes {type(made).__name__}; a torch.optim.Optimizer is needed")
    return made
