"""The folder of an experiment: results of jobs, failures, masks, and who works on it."""

from __future__ import annotations

import json
import os
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
    """Where the jobs of an experiment lie.

    Parameters
    ----------
    path : str or path-like
        A local folder that every worker sees under the same path.

    Raises
    ------
    ConfigError
        If it is a URL, or a file.
    """

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
        """The gathered results."""
        return self.path / "results.zarr"

    def make(self) -> None:
        """Make the folder and what belongs in it."""
        for name in ("jobs", "measures", "masks", "failed"):
            (self.path / name).mkdir(parents=True, exist_ok=True)

    def lock(self) -> FileLock:
        """Keep other drivers out; LockedError if one is at work."""
        return FileLock(self.path / "driver.lock")

    def result(self, key: str, job: Job) -> Path:
        """Return where the result of a job lies, or will."""
        name = "measures" if isinstance(job, MeasureJob) else "jobs"
        return self.path / name / f"{key.removeprefix('job:')}.zarr"

    def is_done(self, key: str, job: Job) -> bool:
        """Say whether a job's result is there, whole."""
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
        """Return what a job failed of the last time; None if it did not."""
        try:
            document = json.loads(self._failure_file(key).read_text(encoding="utf-8"))
            return str(document["error"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return "unknown: its record is damaged"

    def write_failure(self, key: str, error: str) -> None:
        """Note what a job failed of."""
        _write_whole(self._failure_file(key), json.dumps({"job": key, "error": error}))

    def forget_failure(self, key: str) -> None:
        """Drop the note of a failure."""
        self._failure_file(key).unlink(missing_ok=True)

    def keep_mask(self, mask: npt.NDArray[np.bool_]) -> str:
        """Store a mask from outside, and return its digest."""
        digest = mask_digest(mask)
        path = self.path / "masks" / f"{digest}.npy"
        if not path.exists():
            aside = path.with_suffix(f".{os.getpid()}.partial")
            with aside.open("wb") as file:
                np.save(file, np.packbits(mask), allow_pickle=False)
            aside.replace(path)
        return digest

    def mask(self, digest: str, size: int) -> npt.NDArray[np.bool_]:
        """Read a mask that was kept; DataError if it is missing or another."""
        path = self.path / "masks" / f"{digest}.npy"
        try:
            bits = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} can not be read; give the mask again") from error
        mask = np.unpackbits(bits, count=size).astype(bool)
        if mask_digest(mask) != digest:
            raise DataError(f"{path} is not the mask it was; delete it and give the mask again")
        return mask

    def write_document(self, name: str, document: Any) -> None:
        """Write a JSON file, whole."""
        _write_whole(self.path / name, json.dumps(document, indent=1))

    def _failure_file(self, key: str) -> Path:
        return self.path / "failed" / f"{key.removeprefix('job:')}.json"


def _write_whole(path: Path, text: str) -> None:
    aside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
