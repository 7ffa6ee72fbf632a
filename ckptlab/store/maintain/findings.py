"""What a check of a run found: counts, findings, notes; as text and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is wrong.

    Parameters
    ----------
    array : str
        Name of the array; empty where it is the run's root metadata.
    file : str
        Key of the file within the run.
    problem : str
        What is wrong with it.
    first_step, last_step : int or None
        The recorded steps it touches; None where that is not known, or all.
    rebuildable : bool
        Whether the file only repeats what stands elsewhere, so that nothing recorded is lost.
    observation : bool
        Whether it holds what was observed of the training, such as its loss, and none of its state.
    """

    array: str
    file: str
    problem: str
    first_step: int | None = None
    last_step: int | None = None
    rebuildable: bool = False
    observation: bool = False

    @property
    def where(self) -> str:
        """Array and steps."""
        steps = "" if self.first_step is None else f", steps {self.first_step}..{self.last_step}"
        return f"{self.array or 'root metadata'}{steps}"

    def __str__(self) -> str:
        return f"{self.where}: {self.file} {self.problem}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What `verify` found.

    Parameters
    ----------
    path : str
        Of the run.
    state : str
        ``recording``, ``complete``, ``interrupted``, or ``unknown`` if it cannot be read.
    deep : bool
        Whether the digests of the snapshots were recomputed.
    threads, memory : int
        Threads that decoded, and the bytes they and the process take at most, counted beforehand.
    steps : int
        Committed steps.
    first_step, last_step : int or None
        The first and the last of them.
    arrays, files, shards, bytes : int
        How many arrays the run has, and files, shards among them, and bytes that were checked.
    findings : tuple of Finding
        What is wrong.
    notes : tuple of str
        What is unusual and harmless.
    """

    path: str
    state: str = "unknown"
    deep: bool = False
    threads: int = 0
    memory: int = 0
    steps: int = 0
    first_step: int | None = None
    last_step: int | None = None
    arrays: int = 0
    files: int = 0
    shards: int = 0
    bytes: int = 0
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values, ``ok`` among them."""
        return {"ok": self.ok, **asdict(self)}

    def __str__(self) -> str:
        span = f" ({self.first_step}..{self.last_step})" if self.steps else ""
        what = "checksums and digests" if self.deep else "checksums"
        verdict = "ok" if self.ok else f"{len(self.findings)} found wrong"
        run = f"{self.state}, {self.steps:,} steps{span}, {self.arrays} arrays"
        files = f"{self.files:,} files, {self.shards:,} shards among them, {self.bytes:,} bytes"
        how = f"{self.threads} threads, at most {self.memory / 2**20:,.0f} MiB of memory"
        lines = [f"{self.path}: {verdict}; {run}", f"checked {what} of {files}; {how}"]
        lines += [f"  wrong: {finding}" for finding in self.findings]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True, slots=True)
class Repair:
    """What `repair` did.

    Parameters
    ----------
    path : str
        Of the run.
    saved : str or None
        Where the files were copied before they were changed; None if nothing was.
    steps : int
        Recorded steps that were dropped.
    first_step, last_step : int or None
        The first and the last of them.
    anchors, evaluations : int
        How many of these went with them.
    left : int
        Recorded steps that stay.
    rebuilt : tuple of str
        Files that were written anew from what stands elsewhere.
    emptied : tuple of str
        Observations that are lost and say so, NaN where they are numbers: arrays and steps.
    """

    path: str
    saved: str | None = None
    steps: int = 0
    first_step: int | None = None
    last_step: int | None = None
    anchors: int = 0
    evaluations: int = 0
    left: int = 0
    rebuilt: tuple[str, ...] = ()
    emptied: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return asdict(self)

    def __str__(self) -> str:
        if self.saved is None:
            return f"{self.path}: nothing to repair"
        parts = []
        if self.steps:
            parts.append(
                f"dropped {self.steps} steps ({self.first_step}..{self.last_step}) with "
                f"{self.anchors} anchors and {self.evaluations} evaluations; {self.left:,} steps "
                "are left, and recording can be resumed there"
            )
        if self.rebuilt:
            parts.append(f"rebuilt {', '.join(self.rebuilt)}")
        if self.emptied:
            parts.append(f"emptied {'; '.join(self.emptied)}")
        return f"{self.path}: {'; '.join(parts)}. What was there is kept in {self.saved}"
