"""Combine the settings of a training: defaults, preset, file, overrides; later ones win."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from ckptlab.errors import ConfigError
from ckptlab.registry import allow, is_reference
from ckptlab.train.datasets.registry import DataSet, DigitsConfig
from ckptlab.train.learning_rate import RATE_SCHEDULES
from ckptlab.train.models.registry import ModelConfig
from ckptlab.train.optimizers import SCHEDULED, Optim, SgdConfig
from ckptlab.train.presets import PRESETS
from ckptlab.train.problem_settings import LossConfig, ProblemConfig
from ckptlab.train.sections import EvalConfig, RecordConfig, Section, TrainConfig
from ckptlab.train.settings import explain, merge, models_in, parse_override, read_toml
from ckptlab.train.tasks.registry import AnyTask, BlurTask, PlainTaskConfig, with_inherited

__all__ = [
    "Config",
    "as_written",
    "canonical",
    "change",
    "config_hash",
    "default_path",
    "load_config",
    "overlay",
    "override",
    "parse_config",
]


class Config(Section):
    """Everything that decides a training."""

    problem: ProblemConfig = Field(
        default=ProblemConfig(),
        description="a problem of your own, in place of model, data, task and loss",
        exclude_if=lambda problem: problem.name is None,
    )
    model: ModelConfig = Field(default=ModelConfig(), description="the network")
    data: DataSet = Field(default=DigitsConfig(), description="the data set")
    task: AnyTask = Field(default=PlainTaskConfig(), description="what it learns")
    loss: LossConfig = Field(
        default=LossConfig(),
        description="what is minimised, and what counts as accuracy",
        exclude_if=lambda loss: loss == LossConfig(),
    )
    optim: Optim = Field(default=SgdConfig(), description="the optimizer")
    train: TrainConfig = Field(default=TrainConfig(), description="length, seeds, numerics")
    record: RecordConfig = Field(default=RecordConfig(), description="what is recorded")
    eval: EvalConfig = Field(default=EvalConfig(), description="when it is evaluated")

    @model_validator(mode="before")
    @classmethod
    def _optimizer_of_problem(cls, values: Any) -> Any:
        optim = values.get("optim", {}) if isinstance(values, Mapping) else None
        if _problem_in(values) is None or not isinstance(optim, Mapping) or "name" in optim:
            return values
        return {**values, "optim": {**optim, "name": "problem"}}

    @model_validator(mode="after")
    def _problem_stands_alone(self) -> Config:
        for section in REPLACED if self.problem.name is not None else ():
            if getattr(self, section) != type(self).model_fields[section].default:
                raise ConfigError(
                    f"{section} does not apply to problem.name={self.problem.name!r}, which holds "
                    f"model, data and loss; leave {section}.* out, or problem.name"
                )
        if self.problem.name is None and self.optim.name == "problem":
            raise ConfigError(
                "optim.name='problem' is the optimizer of a problem of your own, and problem.name "
                "is not set"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_replaced(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        for section in REPLACED if self.problem.name is not None else ():
            written.pop(section, None)
        return written

    @property
    def title(self) -> str:
        """What is trained: the problem, or network and data."""
        return self.problem.name or f"{self.model.name}-{self.data.name}"


REPLACED: tuple[str, ...] = ("model", "data", "task", "loss")
"""Sections that a problem of a user's replaces."""


def _problem_in(settings: Any) -> Any:
    """Return the name of the problem that nested settings choose, or None."""
    problem = settings.get("problem") if isinstance(settings, Mapping) else None
    return problem.get("name") if isinstance(problem, Mapping) else None


def parse_config(settings: Mapping[str, Any]) -> Config:
    """Check nested settings, such as those stored with a run.

    Parameters
    ----------
    settings : mapping
        Sections, each a mapping of keys to values; what is left out is the default.

    Returns
    -------
    Config
        The checked settings.

    Raises
    ------
    ConfigError
        If a key is unknown or a value is not accepted: one line that names the key.
    """
    try:
        return Config.model_validate(dict(settings))
    except ValidationError as error:
        raise explain(error, Config, settings) from error


def load_config(
    path: Path | None = None,
    overrides: Sequence[str] = (),
    preset: str | None = None,
    base: Mapping[str, Any] | None = None,
) -> Config:
    """Read the settings of a training.

    What the file and the overrides name as ``module:object`` may be imported from then on.

    Parameters
    ----------
    path : Path, optional
        A TOML file with the sections as tables.
    overrides : sequence of str
        Each ``section.key=value``.
    preset : str, optional
        Name of a preset that the file and the overrides change.
    base : mapping, optional
        Settings that all of these change, such as those of another run; the defaults if not given.

    Returns
    -------
    Config
        The checked settings.

    Raises
    ------
    ConfigError
        If one of them cannot be read, a key is unknown or a value is not accepted.
    """
    layers: list[Mapping[str, Any]] = []
    if preset is not None:
        layers.append(PRESETS.find(preset).settings)
    if path is not None:
        layers.append(read_toml(path, "config file"))
    given: dict[str, Any] = {}
    for text in overrides:
        given = merge(given, parse_override(text))
    settings: Mapping[str, Any] = as_written(base or {})
    for layer in [*layers, given]:
        settings = overlay(settings, layer)
    return parse_config(settings)


def override(config: Config, overrides: Sequence[str]) -> Config:
    """Change single settings, each given as ``section.key=value``."""
    return load_config(overrides=overrides, base=config.model_dump(mode="json"))


def change(config: Config, **sections: Mapping[str, Any]) -> Config:
    """Change settings given as values: by section, keys and their new values."""
    return parse_config(overlay(config.model_dump(mode="json"), sections))


def config_hash(config: Config) -> str:
    """Return 16 hexadecimal digits that identify the settings: the xxh3_64 of `canonical`."""
    text = json.dumps(canonical(config), sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_64_hexdigest(text.encode())


def default_path(config: Config, preset: str | None = None) -> str:
    """Return where a recording goes by default: ``runs/<preset or model-data>-<hash8>.zarr``."""
    name = preset or config.title.replace(":", "-")
    return f"runs/{name}-{config_hash(config)[:8]}.zarr"


def as_written(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return stored settings without those that their names do not take.

    Until version 0.2 a run stored the settings of all optimizers, data sets and tasks.
    """
    return {
        section: _taken(section, values) if isinstance(values, Mapping) else values
        for section, values in settings.items()
    }


_UNUSED: Mapping[str, Mapping[str, Any]] = {
    "data": dict.fromkeys(("root", "image_size", "channels", "classes", "samples", "seed")),
    "task": {"factor": None},
    "optim": {"momentum": 0.9, "nesterov": False, "betas": [0.9, 0.999], "eps": 1e-8},
}
"""What version 0.1 wrote for settings that did not apply."""


_LATER: tuple[str, ...] = ("observe", "outage_seconds")
"""Settings of `record` that came later and change no result."""


def canonical(config: Config) -> dict[str, Any]:
    """Return the settings as version 0.1 wrote them, so that hashes of settings stay the same."""
    written = config.model_dump(mode="json")
    for section, unused in _UNUSED.items():
        if section not in written:
            continue
        fields = type(getattr(config, section)).model_fields
        values = {
            # Where there is now a default, there was nothing.
            key: None if unused.get(key, value) is None and value == fields[key].default else value
            for key, value in written[section].items()
        }
        written[section] = {**unused, **values}
    for key in _LATER:
        written["record"].pop(key)
    default = BlurTask.model_fields["factor"].default
    for stage in written.get("task", {}).get("stages", ()):
        stage["factor"] = None if stage.get("factor") == default else stage.get("factor")
    return written


def overlay(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge what a user wrote over other nested settings, which may be partial.

    Another name drops the settings that belonged to the name before.
    """
    _allow(changes)
    result = dict(settings)
    for section, values in changes.items():
        before = result.get(section)
        if isinstance(before, Mapping) and isinstance(values, Mapping):
            chosen = {k: values[k] for k in ("name", "schedule") if values.get(k) is not None}
            result[section] = merge(_taken(section, {**before, **chosen}), values)
        else:
            result[section] = values
    if _problem_in(changes) is not None:
        for section in REPLACED:
            if section not in changes:
                result.pop(section, None)
        if "name" not in changes.get("optim", {}):
            result["optim"] = {**changes.get("optim", {}), "name": "problem"}
    return result


def _allow(changes: Mapping[str, Any]) -> None:
    """Let the ``module:object`` names that a user wrote be imported."""
    for values in changes.values():
        if isinstance(values, Mapping):
            stages = values.get("stages") or ()
            stages = [s for s in stages if isinstance(s, Mapping)]
            named = [values, *stages]
            names = [v.get(k) for v in named for k in ("name", "schedule", "accuracy", "codec")]
            for name in names:
                if isinstance(name, str) and is_reference(name):
                    allow(name)


def _taken(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the settings of a section that only other names take."""
    info = Config.model_fields.get(section)
    variants = {} if info is None else dict(models_in(info.annotation))
    if len(variants) < 2:
        return dict(values)
    if section == "task":
        values = with_inherited(values)
    name = values.get("name", info.default.name if info else None)
    own = _variant(variants, name)
    foreign = {k for v in variants.values() for k in v.model_fields} - own.model_fields.keys()
    schedule = values.get("schedule", "constant")
    if section == "optim" and schedule in RATE_SCHEDULES:
        foreign |= {key for key in SCHEDULED if not RATE_SCHEDULES[schedule].takes(key)}
    return {key: value for key, value in values.items() if key not in foreign}


def _variant(variants: Mapping[str, Any], name: object) -> type[Section]:
    """Return the settings of a name: those of users' own entries unless a built-in has it."""
    for variant in variants.values():
        if name in getattr(variant.model_fields["name"].annotation, "__args__", ()):
            found: type[Section] = variant
            return found
    other: type[Section] = variants["other"]
    return other
