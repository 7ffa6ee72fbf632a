"""Read settings from TOML and overrides, merge them, and explain what pydantic refuses."""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, Tag, ValidationError

from ckptlab.errors import ConfigError, unknown_name

UNKNOWN_NAME = "unknown_name"
"""Type of the error that a name in no registry is; ``accepted`` in its context are the names."""


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Read a TOML file; `what` it is, such as ``"config file"``, begins an error."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except IsADirectoryError as error:
        is_run = (path / "zarr.json").exists()
        found = "a recorded run" if is_run else "a folder"
        fix = (
            f"to go on with it: --resume {path}; to branch from it: --from {path}@STEP; "
            f"to replace it: -o {path} --overwrite"
            if is_run
            else "give a TOML file"
        )
        raise ConfigError(f"{str(path)!r} is {found}, not a {what}; {fix}") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{what} {str(path)!r} cannot be read: {reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{what} {str(path)!r} is not TOML: {error}") from error


def merge(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge tables into tables; anything else replaces."""
    result = dict(settings)
    for key, value in changes.items():
        before = result.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            result[key] = merge(before, value)
        else:
            result[key] = value
    return result


def parse_override(text: str) -> dict[str, Any]:
    """Read ``section.key=value`` as nested settings; ConfigError if it is something else."""
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or len(parts) < 2 or not all(parts):
        raise ConfigError(
            f"{text!r} is not a setting; write section.key=value, such as train.steps=300"
        )
    nested: Any = _parse_value(value.strip())
    for part in reversed(parts):
        nested = {part: nested}
    return dict(nested)


def _parse_value(text: str) -> Any:
    """Read a TOML value; `none` clears a setting, and anything else is plain text."""
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


def explain(
    error: ValidationError, root: type[BaseModel], settings: Mapping[str, Any], where: str = ""
) -> ConfigError:
    """Say in one line what is wrong with the first refused setting.

    `root` is the model that refused `settings`; `where` stands before the key: ``"study.toml: "``.
    """
    # A misspelt name or key first: it is why others are missing or do not apply.
    order = {UNKNOWN_NAME: 0, "extra_forbidden": 1}
    first = min(error.errors(), key=lambda found: order.get(found["type"], 2))
    kind, shown = first["type"], f"{first['input']!r:.80}"
    place = _place(first["loc"], root, settings)
    if kind == UNKNOWN_NAME:
        return unknown_name(f"{where}{place.key}", first["input"], first["ctx"]["accepted"])
    if kind == "extra_forbidden":
        return _unknown_key(place, shown, where)
    if place.field not in place.owner.model_fields:
        return ConfigError(f"{where}{place.key}={shown} is not accepted: {first['msg']}")
    info = place.owner.model_fields[place.field]
    if place.owner is root and list(models_in(info.annotation)):
        return ConfigError(
            f"{where}{place.key}={shown} is not a section; write {place.key}.<setting>=value"
        )
    extra = info.json_schema_extra
    accepted = extra.get("accepted") if isinstance(extra, dict) else None
    if accepted is None and kind != "missing":
        about = f"{place.key}={shown} is not accepted ({info.description})"
        return ConfigError(f"{where}{about}: {first['msg']}")
    if kind == "missing":
        accepted = accepted or info.description
        needs = f" {place.section} {place.name!r} needs it;" if place.rivals else ""
        return ConfigError(f"{where}{place.key} is missing;{needs} accepted: {accepted}.")
    if kind == "value_error":
        return ConfigError(f"{where}{place.key}={shown}: {first['ctx']['error']}.")
    return ConfigError(f"{where}{place.key}={shown} is not accepted; accepted: {accepted}.")


@dataclass(kw_only=True, slots=True)
class _Place:
    """Where an error is: the key as users write it, and the model whose field it concerns.

    `rivals` are the other models the key could belong to, and `settings` those around the key.
    """

    key: str = ""
    owner: type[BaseModel]
    field: str = ""
    section: str = ""
    settings: Any = None
    rivals: Sequence[type[BaseModel]] = ()

    @property
    def name(self) -> str:
        """The entry that the settings around the key are for."""
        default = self.owner.model_fields["name"].default if "name" in self.fields else ""
        given = self.settings.get("name") if isinstance(self.settings, Mapping) else None
        return str(given or default)

    @property
    def fields(self) -> list[str]:
        return list(self.owner.model_fields)


def _unknown_key(place: _Place, shown: str, where: str) -> ConfigError:
    prefix = place.key.rpartition(".")[0]
    takers = [
        name
        for rival in place.rivals
        if place.field in rival.model_fields
        for name in get_args(rival.model_fields["name"].annotation)
    ]
    if takers:
        own = [key for key in place.fields if key not in ("name", "stages", "steps", "options")]
        whose = f"{place.field} is for {', '.join(takers)}"
        fix = f"Leave {place.key} out"
        if "options" in place.fields:
            fix += f", or write {prefix}.options.{place.field} for an argument of your own"
        return ConfigError(
            f"{where}{place.key}={shown} does not apply to {place.section} {place.name!r}, which "
            f"takes {', '.join(own) or 'none of these'}; {whose}. {fix}"
        )
    known = [f"{prefix}.{name}" if prefix else name for name in place.fields]
    what = f"key of {where.strip()}" if where else "setting"
    return unknown_name(what, place.key, known)


def _place(
    location: Sequence[int | str], root: type[BaseModel], settings: Mapping[str, Any]
) -> _Place:
    """Follow the location of an error through sections, their variants and lists of tables."""
    place = _Place(owner=root)
    inner: type[BaseModel] | None = root
    variants: dict[str, type[BaseModel]] = {}
    around: Any = settings
    for part in location:
        if isinstance(part, int):
            place.key += f"[{part}]"
            held = isinstance(around, Sequence) and part < len(around)
            around = around[part] if held else None
        elif part in variants:
            inner = variants[part]
            place.rivals = tuple(m for m in variants.values() if m is not inner)
            variants = {}
        elif inner is None:
            # Beyond a plain value come only the names of the types that were tried.
            break
        else:
            place.key = f"{place.key}.{part}" if place.key else part
            place.owner, place.field, place.settings = inner, part, around
            place.section = place.key.split(".")[0]
            if around is settings:
                place.rivals = ()
            around = around.get(part) if isinstance(around, Mapping) else None
            found = inner.model_fields.get(part)
            variants = dict(models_in(None if found is None else found.annotation))
            inner = variants.pop("", None)
    return place


def models_in(annotation: Any, tag: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the models that a field holds, or holds a list of, by their tags."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield tag, annotation
        return
    arguments = get_args(annotation)
    tag = next((part.tag for part in arguments if isinstance(part, Tag)), tag)
    for part in arguments:
        if not isinstance(part, Tag):
            yield from models_in(part, tag)
