"""Check a run for damage: structure, markers, metadata, files and checksums of what it committed.

One view is taken at the start, so that a run can be checked while it is recorded.
"""

from __future__ import annotations

import os
from dataclasses import replace

from ckptlab.errors import CorruptError, StoreError
from ckptlab.store.backends.base import ROOT, Storage
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format import schema
from ckptlab.store.format.zarr_metadata import root_metadata
from ckptlab.store.maintain.budget import DEFAULT_MEMORY, share_memory
from ckptlab.store.maintain.checker import Checker, text
from ckptlab.store.maintain.findings import Finding, Report
from ckptlab.store.read.root import check_root, load_root, read_root

_ATTEMPTS = 3


def verify(
    path: str | os.PathLike[str] | Storage, *, deep: bool = False, memory: int = DEFAULT_MEMORY
) -> Report:
    """Check a run for damage.

    Parameters
    ----------
    path : str, path-like or Storage
        Local path or URL.
    deep : bool
        Whether to decode every snapshot and compare its digest, too.
    memory : int
        Bytes that the process may take, whatever the number of parameters.

    Returns
    -------
    Report
        What is wrong names array, steps and file.

    Raises
    ------
    StoreError
        If there is no run, or it was written in a newer format.
    ConfigError
        If the memory is too little for one inner chunk.
    """
    storage = open_storage(path)
    report = _check(storage, deep=deep, memory=memory)
    for _ in range(_ATTEMPTS - 1):
        if report.ok or not _may_move(storage, report):
            break
        # Who resumes a run may cut it while it is checked: damage is what stays.
        again = _check(storage, deep=deep, memory=memory)
        files = {finding.file for finding in report.findings}
        lasting = tuple(finding for finding in again.findings if finding.file in files)
        report = replace(again, findings=lasting)
    return report


def _may_move(storage: Storage, report: Report) -> bool:
    if report.state == "recording":
        return True
    try:
        attributes, metadata = read_root(storage)
    except StoreError:
        return False
    moved = schema.committed_lengths(metadata)["step"] != report.steps
    return moved or attributes["state"] != report.state


def _check(storage: Storage, *, deep: bool, memory: int) -> Report:
    try:
        root = load_root(storage)
        attributes, metadata = check_root(storage, root)
    except CorruptError as error:
        finding = Finding(array="", file=ROOT, problem=error.problem or str(error))
        return Report(path=storage.path, deep=deep, files=1, findings=(finding,))
    checker = Checker(storage, attributes, metadata, share_memory(metadata, memory))
    if text(root) != text(root_metadata(attributes, metadata)):
        checker.add("", ROOT, "is not what ckptlab writes")
    return checker.run(deep=deep)
