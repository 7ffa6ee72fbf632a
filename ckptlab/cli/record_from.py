"""``ckptlab record --from RUN@STEP``: what a branch begins from, and its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import xxhash

from ckptlab.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ckptlab.train.config import Config
    from ckptlab.train.initial_state import Start


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Branch:
    """A branch that was asked for, resolved as far as nothing has to be trained for it.

    Parameters
    ----------
    point : str
        ``RUN@STEP`` as it was given.
    step, at : int
        Step of the run that is left, and its number in the branch.
    config : Config
        Settings of the branch.
    mask : ndarray of bool, shape (param,), or None
        Given with ``--mask``.
    mask_name : str or None
        As it was given.
    fresh_optimizer, allow_inexact : bool
        As they were given.
    """

    point: str
    step: int
    at: int
    config: Config
    mask: npt.NDArray[np.bool_] | None
    mask_name: str | None
    fresh_optimizer: bool
    allow_inexact: bool

    def default_path(self) -> str:
        """Return where it goes unless told otherwise."""
        from ckptlab.train.config import config_hash

        path = self.point.rpartition("@")[0]
        about = (config_hash(self.config), path, self.step, self.at, self.mask_name)
        digest = xxhash.xxh3_64_hexdigest(repr((*about, self.fresh_optimizer)).encode())
        return f"runs/{PurePath(path.rstrip('/')).stem}-from-{self.step}-{digest[:8]}.zarr"

    def start(self) -> Start:
        """Read the state it begins from, repeating some of the training if need be."""
        from ckptlab.store.read.reader import open_store
        from ckptlab.train.branch import take

        return take(
            open_store(self.point.rpartition("@")[0]),
            self.step,
            self.config,
            at=self.at,
            fresh_optimizer=self.fresh_optimizer,
            allow_inexact=self.allow_inexact,
        )


def parse_branch(
    point: str, file: Path | None, overrides: Sequence[str], options: Mapping[str, Any]
) -> Branch:
    """Resolve what a branch begins from.

    Parameters
    ----------
    point : str
        ``RUN@STEP``.
    file : Path or None
        A TOML file with settings that are to be others.
    overrides : sequence of str
        Each ``section.key=value``.
    options : mapping
        ``at``, ``mask``, ``fresh_optimizer`` and ``allow_inexact`` as they were given.

    Returns
    -------
    Branch
        What was asked for.

    Raises
    ------
    CkptlabError
        If there is no such run or step, or a setting or the mask is not accepted.
    """
    from ckptlab.analyze.engine.masks import load_mask
    from ckptlab.analyze.engine.source import as_source
    from ckptlab.record.schedule import parse_step
    from ckptlab.store.read.reader import open_store
    from ckptlab.train.branch import Point, branch_config, require_exact, require_network

    parsed = Point.parse(point)
    stored = open_store(parsed.path)
    step = parsed.resolve(stored)
    at, fresh = options["at"], bool(options["fresh_optimizer"])
    mask = load_mask(options["mask"], as_source(stored))
    settings = branch_config(stored, file, overrides, as_parent=not fresh)
    require_network(stored, settings)
    if not fresh and not options["allow_inexact"]:
        require_exact(stored, settings)
    return Branch(
        point=point,
        step=step,
        at=step if at is None else parse_step(at, stored.attributes.get("steps_per_epoch")),
        config=settings,
        mask=None if mask is None else mask.values,
        mask_name=options["mask"],
        fresh_optimizer=fresh,
        allow_inexact=bool(options["allow_inexact"]),
    )


def require_branch(options: Mapping[str, Any]) -> None:
    """Raise ConfigError if an option was given that only a branch takes."""
    for name in ("at", "mask", "fresh_optimizer"):
        if options[name]:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag} goes with --from RUN@STEP, such as --from runs/a.zarr@init")
