"""Taking a recorded training up again: what may change, and what must be as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ckptlab.errors import ConfigError
from ckptlab.record.environment import device_model
from ckptlab.record.schedule import parse_step
from ckptlab.store.read.reader import open_store
from ckptlab.train.config import Config, override, parse_config

CHANGEABLE: frozenset[str] = frozenset({"train.steps", "record.memory"})
"""Settings that may differ when a run is taken up again."""

INEXACT: frozenset[str] = frozenset({"train.threads", "train.device", "train.deterministic"})
"""Settings that may differ as well where the result need not be bit-identical."""


def stored_config(attributes: Mapping[str, Any]) -> Config:
    """Read the settings a run was made with.

    Parameters
    ----------
    attributes : mapping
        Root attributes of the run.

    Returns
    -------
    Config
        The settings.

    Raises
    ------
    ConfigError
        If the run was not made by the built-in trainer.
    """
    settings = attributes.get("config")
    if not isinstance(settings, Mapping) or not has_settings(attributes):
        raise ConfigError(
            "the run holds no settings of the built-in trainer: it was imported, or recorded from "
            "a loop of one's own, which alone can continue it, by Recorder(..., resume=True)."
        )
    return parse_config(settings)


def has_settings(attributes: Mapping[str, Any]) -> bool:
    """Say whether a run was made by the built-in trainer, and so can be made again."""
    settings = attributes.get("config")
    return isinstance(settings, Mapping) and "model" in settings


def resume_config(
    path: str, overrides: Sequence[str] = (), *, allow_inexact: bool = False
) -> Config:
    """Read the settings of a recorded run and change what may be changed.

    Parameters
    ----------
    path : str
        The run.
    overrides : sequence of str
        Each ``section.key=value``.
    allow_inexact : bool
        Whether threads, device and determinism may change too.

    Returns
    -------
    Config
        The settings to resume with.

    Raises
    ------
    StoreError
        If there is no run at the path.
    ConfigError
        If a setting would change that may not.
    """
    attributes = open_store(path).attributes
    config = override(stored_config(attributes), overrides)
    require_resumable(attributes, config, allow_inexact=allow_inexact)
    return config


def require_resumable(
    attributes: Mapping[str, Any], config: Config, *, allow_inexact: bool = False
) -> None:
    """Check that a run can go on with these settings.

    Parameters
    ----------
    attributes : mapping
        Root attributes of the run.
    config : Config
        The settings to resume with.
    allow_inexact : bool
        Whether threads, device and determinism may differ.

    Raises
    ------
    ConfigError
        If a setting differs that may not, or the run would become shorter.
    """
    before = stored_config(attributes)
    allowed = CHANGEABLE | INEXACT if allow_inexact else CHANGEABLE
    for key, (old, new) in differences(before, config).items():
        if key not in allowed:
            hint = " (or allow inexact results)" if key in INEXACT else ""
            raise ConfigError(
                f"{key}={new!r} differs from the run's {old!r}; when a run is taken up again only "
                f"{' and '.join(sorted(CHANGEABLE, reverse=True))} may change{hint}."
            )
    steps_per_epoch = attributes.get("steps_per_epoch")
    old_steps, new_steps = (parse_step(c.train.steps, steps_per_epoch) for c in (before, config))
    if new_steps < old_steps:
        raise ConfigError(
            f"train.steps={config.train.steps!r} is less than the run's {before.train.steps!r}; "
            "a run can be extended, not shortened."
        )


def as_before(attributes: Mapping[str, Any], config: Config) -> Config:
    """Pin what was left to the machine when the run was made: device and threads.

    Parameters
    ----------
    attributes : mapping
        Root attributes of the run.
    config : Config
        The settings to resume with.

    Returns
    -------
    Config
        With the run's device and threads where the settings leave them open.
    """
    device = attributes.get("device", {}).get("type", config.train.device)
    pinned = {
        "device": device if config.train.device == "auto" else config.train.device,
        "threads": config.train.threads or attributes.get("threads"),
    }
    return config.model_copy(update={"train": config.train.model_copy(update=pinned)})


def require_same_machine(attributes: Mapping[str, Any], device: torch.device) -> None:
    """Check that the same numbers will come out here as where the run was made.

    Parameters
    ----------
    attributes : mapping
        Root attributes of the run.
    device : device
        Where it is to go on.

    Raises
    ------
    ConfigError
        If torch or the device is another.
    """
    here = {"torch": str(torch.__version__), "device": device_model(device)}
    there = {
        "torch": attributes.get("versions", {}).get("torch"),
        "device": attributes.get("device", {}).get("model"),
    }
    for what, value in here.items():
        if value != there[what]:
            raise ConfigError(
                f"the run was made with {what} {there[what]!r}, here it is {value!r}, so the "
                "result would not be bit-identical; resume there, or allow inexact results."
            )


def differences(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """List the settings that differ.

    Parameters
    ----------
    before, after : Config
        The settings.

    Returns
    -------
    dict
        By ``section.key``, the two values.
    """
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    return {
        f"{section}.{key}": (value, new[section][key])
        for section, values in old.items()
        for key, value in values.items()
        if value != new[section][key]
    }
