"""Check what may change when a recorded training is resumed, and what must be as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ckptlab.errors import ConfigError, UnknownNameError
from ckptlab.record.environment import cudnn_version, device_model
from ckptlab.record.schedule import parse_step
from ckptlab.store.read.reader import open_store
from ckptlab.train.config import Config, as_written, change, load_config, parse_config
from ckptlab.train.data_root import root_of
from ckptlab.train.optimizers import learning_rate

CHANGEABLE: frozenset[str] = frozenset({"train.steps", "record.memory", "data.root"})
"""Settings that may differ when a run is resumed."""

INEXACT: frozenset[str] = frozenset({"train.threads", "train.device", "train.deterministic"})
"""Settings that may differ as well where the result need not be bit-identical."""

_UNNAMED = "?"


def has_settings(attributes: Mapping[str, Any]) -> bool:
    """Return whether a run was made by the built-in trainer, and so can be repeated."""
    settings = attributes.get("config")
    return isinstance(settings, Mapping) and ("model" in settings or "problem" in settings)


def stored_config(attributes: Mapping[str, Any]) -> Config:
    """Read the settings that the root attributes of a run hold.

    Raises
    ------
    ConfigError
        If the run was not made by the built-in trainer.
    """
    if not has_settings(attributes):
        raise ConfigError(
            "the run holds no settings of the built-in trainer: it was imported, or recorded from "
            "a training loop outside ckptlab. Only that loop can resume it, by "
            "Recorder(..., resume=True)."
        )
    try:
        return parse_config(as_written(attributes["config"]))
    except UnknownNameError as error:
        raise _unregistered(error, attributes.get("plugins")) from error


def _unregistered(error: UnknownNameError, plugins: Any) -> UnknownNameError:
    """Say which file registers a name that a run has and this process has not."""
    named = isinstance(plugins, list) and all(isinstance(file, str) for file in plugins)
    files = plugins if named and plugins else ["FILE.py"]
    load = " ".join(f"--plugin {file}" for file in files)
    made = f"the run was made with {', '.join(files)}" if named else "a plug-in registered it"
    return UnknownNameError(
        f"{str(error).partition(' Accepted:')[0]} It is no name of ckptlab; {made}: load it again, "
        f"ckptlab {load} …, or ckptlab.load_plugin(...) in Python."
    )


def run_config(
    attributes: Mapping[str, Any],
    run: str,
    file: Path | None = None,
    overrides: Sequence[str] = (),
) -> Config:
    """Read the settings of a run and change some, with a ``data.root`` that may be followed.

    Parameters
    ----------
    attributes : mapping
        Root attributes of the run.
    run : str
        Its path: the folder of its data is followed only if it lies beside the run, or the user
        names it (see `data_root`).
    file : Path, optional
        A TOML file with settings that differ.
    overrides : sequence of str
        Each ``section.key=value``.

    Returns
    -------
    Config
        The checked settings.

    Raises
    ------
    ConfigError
        If the run has no settings, a key is unknown or a value is not accepted.
    DataError
        If the run names a folder of data that the user has not.
    """
    base = stored_config(attributes).model_dump(mode="json")
    data = base.get("data", {})
    root = data.get("root")
    if "root" in data:
        data["root"] = _UNNAMED
    config = load_config(file, overrides, base=base)
    if getattr(config.data, "root", None) == _UNNAMED:
        config = change(config, data={"root": root_of(root, run)})
    return config


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
    config = run_config(attributes, path, overrides=overrides)
    require_resumable(attributes, config, allow_inexact=allow_inexact)
    return config


def require_resumable(
    attributes: Mapping[str, Any], config: Config, *, allow_inexact: bool = False
) -> None:
    """Check that a run can go on with these settings.

    Raises
    ------
    ConfigError
        If a setting differs that may not, the run would become shorter, or updates that are done
        would have had another learning rate.
    """
    before = stored_config(attributes)
    allowed = CHANGEABLE | INEXACT if allow_inexact else CHANGEABLE
    for key, (old, new) in differences(before, config).items():
        if key not in allowed:
            hint = " (or allow inexact results)" if key in INEXACT else ""
            raise ConfigError(
                f"{key}={new!r} differs from the run's {old!r}; when a run is resumed only "
                f"{' and '.join(sorted(CHANGEABLE, reverse=True))} may change{hint}."
            )
    epoch = attributes.get("steps_per_epoch")
    steps = [parse_step(c.train.steps, epoch) for c in (before, config)]
    if steps[1] < steps[0]:
        raise ConfigError(
            f"train.steps={config.train.steps!r} is less than the run's {before.train.steps!r}; "
            "a run can be extended, not shortened."
        )
    if steps[1] > steps[0]:
        _require_same_rates(before, config, steps, epoch)


def _require_same_rates(
    before: Config, config: Config, steps: Sequence[int], epoch: int | None
) -> None:
    """Refuse a longer run in which the updates that are planned so far have another rate."""
    old, new = (
        learning_rate(c.optim, n, epoch) for c, n in zip((before, config), steps, strict=True)
    )
    changed = next((k for k in range(steps[0]) if old(k) != new(k)), None)
    if changed is not None:
        raise ConfigError(
            f"train.steps={config.train.steps!r}: optim.schedule={config.optim.schedule!r} depends "
            f"on the length of the run, so the schedule differs from a {steps[1]}-step run: update "
            f"{changed} has the rate {old(changed):.4g} in the run and {new(changed):.4g} there. "
            f"Record a run of {steps[1]} steps, or branch from the end of this one: record --from "
            f"RUN@final -S train.steps={steps[1]}."
        )


def as_before(attributes: Mapping[str, Any], config: Config) -> Config:
    """Pin device and threads to those of the run, where the settings leave them open."""
    device = attributes.get("device", {}).get("type", config.train.device)
    pinned = {
        "device": device if config.train.device == "auto" else config.train.device,
        "threads": config.train.threads or attributes.get("threads"),
    }
    return config.model_copy(update={"train": config.train.model_copy(update=pinned)})


def require_same_machine(attributes: Mapping[str, Any], device: torch.device) -> None:
    """Raise ConfigError unless torch and the device give the same numbers as where a run began."""
    versions = attributes.get("versions", {})
    here = {"torch": str(torch.__version__), "device": device_model(device)}
    there = {"torch": versions.get("torch"), "device": attributes.get("device", {}).get("model")}
    if "cudnn" in versions:  # which older runs do not name
        here["cuDNN"], there["cuDNN"] = str(cudnn_version(device)), versions["cudnn"]
    for what, value in here.items():
        if value != there[what]:
            raise ConfigError(
                f"the run was made with {what} {there[what]!r}, here it is {value!r}, so the "
                "result would not be bit-identical; resume there, or allow inexact results."
            )


def differences(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """Return the two values of each setting that differs, by ``section.key``."""
    old, new = (_all_sections(config) for config in (before, after))
    return {
        f"{section}.{key}": (old[section].get(key), new[section].get(key))
        for section in old
        for key in old[section] | new[section]
        if old[section].get(key) != new[section].get(key)
    }


def _all_sections(config: Config) -> dict[str, Any]:
    sections = type(config).model_fields
    return {name: getattr(config, name).model_dump(mode="json") for name in sections}
