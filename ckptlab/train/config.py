"""The settings of a training: one frozen model, and where its values come from.

Later sources win: defaults, preset,
file, overrides.
"""

from __future__ import annotations

import datetime
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import xxhash
from pydantic import Field, ValidationError, model_validator

from ckptlab.errors import ConfigError, unknown_name
from ckptlab.train.datasets.registry import DATA_SOURCES
from ckptlab.train.models.registry import find_model
from ckptlab.train.presets import PRESETS
from ckptlab.train.registry import find
from ckptlab.train.sections import (
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    RecordConfig,
    Section,
    TaskConfig,
    TrainConfig,
)

__all__ = [
    "Config",
    "DataConfig",
    "EvalConfig",
    "ModelConfig",
    "OptimConfig",
    "RecordConfig",
    "TaskConfig",
    "TrainConfig",
    "change",
    "config_hash",
    "default_path",
    "load_config",
    "override",
    "parse_config",
]


class Config(Section):
    """Everything that decides a training."""

    model: ModelConfig = Field(default=ModelConfig(), description="the network")
    data: DataConfig = Field(default=DataConfig(), description="the data set")
    task: TaskConfig = Field(default=TaskConfig(), description="what it learns")
    optim: OptimConfig = Field(default=OptimConfig(), description="the optimizer")
    train: TrainConfig = Field(default=TrainConfig(), description="length, seeds, numerics")
    record: RecordConfig = Field(default=RecordConfig(), description="what is recorded")
    eval: EvalConfig = Field(default=EvalConfig(), description="when it is evaluated")

    @model_validator(mode="after")
    def _settings_apply(self) -> Config:
        source = find(DATA_SOURCES, "data.name", self.data.name)
        for key in ("root", "image_size", "channels", "classes", "samples", "seed"):
            value = getattr(self.data, key)
            if value is not None and key not in source.options:
                raise ConfigError(
                    f"data.{key}={value!r} does not apply to data {source.name!r}; "
                    f"it takes {', '.join(source.options) or 'none of these'}."
                )
            if value is None and key in source.required:
                raise ConfigError(f"data {source.name!r} needs data.{key}; set data.{key}=...")
        family, _ = find_model(self.model.name)
        if self.model.width is not None and family.width is None:
            raise ConfigError(
                f"model.width={self.model.width}: the width of {self.model.name!r} is fixed; "
                "leave it out."
            )
        if self.optim.nesterov and self.optim.momentum == 0:
            raise ConfigError("optim.nesterov=true needs optim.momentum above 0.")
        return self


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
        raise _explain(error) from error


def load_config(
    path: Path | None = None,
    overrides: Sequence[str] = (),
    preset: str | None = None,
    base: Mapping[str, Any] | None = None,
) -> Config:
    """Read the settings of a training.

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
    settings: dict[str, Any] = dict(base or {})
    if preset is not None:
        settings = merged(settings, find(PRESETS, "preset", preset).settings)
    if path is not None:
        settings = merged(settings, _read_toml(path))
    for text in overrides:
        settings = merged(settings, parse_override(text))
    return parse_config(settings)


def override(config: Config, overrides: Sequence[str]) -> Config:
    """Change single settings.

    Parameters
    ----------
    config : Config
        The settings to start from.
    overrides : sequence of str
        Each ``section.key=value``.

    Returns
    -------
    Config
        The changed and checked settings.

    Raises
    ------
    ConfigError
        If a key is unknown or a value is not accepted.
    """
    return load_config(overrides=overrides, base=config.model_dump(mode="json"))


def change(config: Config, **sections: Mapping[str, Any]) -> Config:
    """Change settings given as values.

    Parameters
    ----------
    config : Config
        The settings to start from.
    **sections : mapping
        By section, keys and their new values.

    Returns
    -------
    Config
        The changed and checked settings.

    Raises
    ------
    ConfigError
        If a key is unknown or a value is not accepted.
    """
    return parse_config(merged(config.model_dump(mode="json"), sections))


def config_hash(config: Config) -> str:
    """Return 16 hexadecimal digits that identify the settings.

    Parameters
    ----------
    config : Config
        The settings.

    Returns
    -------
    str
        The xxh3_64 of their canonical JSON.
    """
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_64_hexdigest(text.encode())


def default_path(config: Config, preset: str | None = None) -> str:
    """Return where a recording goes unless told otherwise.

    Parameters
    ----------
    config : Config
        The settings.
    preset : str, optional
        The preset they came from.

    Returns
    -------
    str
        ``runs/<preset or model-data>-<hash8>.zarr``.
    """
    name = preset or f"{config.model.name}-{config.data.name}".replace(":", "-")
    return f"runs/{name}-{config_hash(config)[:8]}.zarr"


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested settings: keys of `changes` win within each section."""
    result = dict(settings)
    for section, values in changes.items():
        before = result.get(section)
        if isinstance(before, Mapping) and isinstance(values, Mapping):
            result[section] = {**before, **values}
        else:
            result[section] = values
    return result


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"config file {str(path)!r} cannot be read: {reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"config file {str(path)!r} is not TOML: {error}") from error


def parse_override(text: str) -> dict[str, Any]:
    """Read ``section.key=value`` as nested settings; ConfigError if it is something else."""
    key, equals, value = text.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (equals and dot and section and name):
        raise ConfigError(
            f"{text!r} is not a setting; write section.key=value, such as train.steps=300"
        )
    return {section: {name: _parse_value(value.strip())}}


def _parse_value(text: str) -> Any:
    """Read a TOML value; `none` clears a setting, and what is no value is plain text."""
    if text.lower() == "none":
        return None
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = document["value"]
    # A stepped range such as 10:20:30 happens to be a time of day in TOML.
    is_time = isinstance(value, datetime.date | datetime.time)
    return text if is_time or len(document) > 1 else value


def _explain(error: ValidationError) -> ConfigError:
    # A misspelt key first: it is why another one is missing.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    kind, value = first["type"], first["input"]
    place = _place(first["loc"])
    if kind == "extra_forbidden":
        prefix = place.key.rpartition(".")[0]
        known = [f"{prefix}.{name}" if prefix else name for name in place.owner.model_fields]
        return unknown_name("setting", place.key, known)
    if place.owner is Config:
        return ConfigError(
            f"{place.key}={value!r:.80} is not a section; write {place.key}.<setting>=value"
        )
    extra = place.owner.model_fields[place.field].json_schema_extra
    accepted = extra.get("accepted") if isinstance(extra, dict) else None
    if kind == "missing":
        return ConfigError(f"{place.key} is missing; accepted: {accepted}.")
    if kind == "value_error":
        return ConfigError(f"{place.key}={value!r:.80}: {first['ctx']['error']}.")
    return ConfigError(f"{place.key}={value!r:.80} is not accepted; accepted: {accepted}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where an error is: the key as users write it, and whose field it concerns."""

    key: str
    owner: type[Section]
    field: str


def _place(location: Sequence[int | str]) -> _Place:
    """Follow the location of an error through sections and lists of tables."""
    key, field = "", ""
    owner: type[Section] = Config
    inner: type[Section] | None = Config
    for part in location:
        if isinstance(part, int):
            key += f"[{part}]"
        elif inner is None:
            # Beyond a plain value come only the names of the types that were tried.
            break
        else:
            key, owner, field = f"{key}.{part}" if key else part, inner, part
            inner = _section_in(inner, part)
    return _Place(key=key, owner=owner, field=field)


def _section_in(owner: type[Section], field: str) -> type[Section] | None:
    """Return the section that a field holds, or holds a list of; None for a plain value."""
    if field not in owner.model_fields:
        return None
    annotation = owner.model_fields[field].annotation
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None
