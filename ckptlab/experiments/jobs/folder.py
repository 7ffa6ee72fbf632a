"""Keep an experiment in a folder: results of jobs, failures, warnings, masks and the lock."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.errors import ConfigError, DataError, StoreError
from ckptlab.experiments.jobs.job import Job, MeasureJob
from ckptlab.store.backends.lock import FileLock
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.constants import mask_digest
from ckptlab.store.read.root import read_root


class Folder:
    """The folder of an experiment, local or on a file system that every worker sees alike."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if "://" in os.fspath(path):
            raise ConfigError(
                f"-o {os.fspath(path)!r}: an experiment needs a folder, local or on a file system "
                "that all workers share"
            )
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"{path} is a file; an experiment needs a folder, give another -o")

    @property
    def results(self) -> Path:
        """Path of the gathered results."""
        return self.path / "results.zarr"

    def make(self) -> None:
        """Make the folder and its parts."""
        for name in ("jobs", "measures", "masks", "failed", "warnings"):
            (self.path / name).mkdir(parents=True, exist_ok=True)

    def lock(self) -> FileLock:
        """Lock the folder; LockedError if another process runs an experiment in it."""
        return FileLock(self.path / "driver.lock")

    def result(self, key: str, job: Job) -> Path:
        """Return the path of a job's result."""
        name = "measures" if isinstance(job, MeasureJob) else "jobs"
        return self.path / name / f"{key.removeprefix('job:')}.zarr"

    def is_done(self, key: str, job: Job) -> bool:
        """Return whether a job's result is there and complete."""
        path = self.result(key, job)
        if not path.is_dir():
            return False
        if isinstance(job, MeasureJob):
            return True  # it is moved there when it is whole
        try:
            attributes, _ = read_root(open_storage(path))
        except StoreError:
            return False
        return attributes.get("state") == "complete"

    def failure(self, key: str) -> str | None:
        """Return the error of a job that failed the last time, else None."""
        try:
            held = json.loads(self._note("failed", key).read_text(encoding="utf-8"))
            return str(held["error"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return "unknown: its record is damaged"

    def write_failure(self, key: str, error: str) -> None:
        """Keep the error of a job."""
        _write_whole(self._note("failed", key), json.dumps({"job": key, "error": error}))

    def forget_failure(self, key: str) -> None:
        """Drop the error of a job."""
        self._note("failed", key).unlink(missing_ok=True)

    def warnings(self, key: str) -> tuple[str, ...]:
        """Return the warnings of a job."""
        try:
            held = json.loads(self._note("warnings", key).read_text(encoding="utf-8"))
            return tuple(str(text) for text in held["warnings"])
        except (OSError, ValueError, KeyError, TypeError):
            return ()

    def write_warnings(self, key: str, texts: Iterable[str]) -> None:
        """Keep the warnings of a job, so that they are shown as long as its result counts."""
        held = {"job": key, "warnings": list(dict.fromkeys(texts))}
        if held["warnings"]:
            _write_whole(self._note("warnings", key), json.dumps(held))
        else:
            self._note("warnings", key).unlink(missing_ok=True)

    def keep_mask(self, mask: npt.NDArray[np.bool_]) -> str:
        """Store a mask, and return its digest."""
        digest = mask_digest(mask)
        path = self.path / "masks" / f"{digest}.npy"
        if not path.exists():
            aside = path.with_suffix(f".{os.getpid()}.partial")
            with aside.open("wb") as file:
                np.save(file, np.packbits(mask), allow_pickle=False)
            aside.replace(path)
        return digest

    def mask(self, digest: str, size: int) -> npt.NDArray[np.bool_]:
        """Read a stored mask; DataError if it is missing or another."""
        path = self.path / "masks" / f"{digest}.npy"
        try:
            bits = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} can not be read; give the mask again") from error
        mask = np.unpackbits(bits, count=size).astype(bool)
        if mask_digest(mask) != digest:
            raise DataError(f"{path} is not the mask it was; delete it and give the mask again")
        return mask

    def write_json(self, name: str, content: Any) -> None:
        """Replace a JSON file atomically."""
        _write_whole(self.path / name, json.dumps(content, indent=1))

    def _note(self, kind: str, key: str) -> Path:
        return self.path / kind / f"{key.removeprefix('job:')}.json"


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
