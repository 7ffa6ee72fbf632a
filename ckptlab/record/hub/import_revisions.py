"""Import a series whose steps are revisions of a repository, one after the other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from ckptlab.errors import CkptlabError, DataError, NoSpaceError, RunExistsError
from ckptlab.record.convert.find_checkpoints import Checkpoint, Choice, Series, open_checkpoint
from ckptlab.record.convert.import_checkpoints import Imported, import_series
from ckptlab.record.convert.step_numbers import step_in_name
from ckptlab.record.hub.client import (
    Repository,
    cache_folder,
    download,
    list_files,
    list_revisions,
    parse_repository,
)
from ckptlab.record.memory import parse_memory
from ckptlab.store.backends.open import open_storage
from ckptlab.store.read.reader import StoredRun, open_latest
from ckptlab.store.read.root import read_root
from ckptlab.store.write.target import is_free

_FORMATS = ((".safetensors",), (".bin",), (".pt", ".pth", ".ckpt"))
"""Endings of files with weights, the best first: those of the first that is there are taken."""

_BESIDE = ("optimizer", "scheduler", "rng_state", "training_args", "random_states", "scaler")
_TOLD = ("trainer_state.json", "config.json")


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision and the step that its name tells, None where it tells none."""

    name: str
    step: int | None


def find_revisions(
    repository: Repository, pattern: str | None, choice: Choice
) -> tuple[list[Revision], list[str]]:
    """Return the revisions that match, by step, and a line for each that was left out.

    DataError if none does.
    """
    if pattern is None:
        name = repository.revision or "main"
        step = step_in_name(name, choice.step_from)
        return [Revision(name, step.step if step else None)], []
    known = list_revisions(repository)
    matching = [name for name in known if fnmatchcase(name, pattern)]
    found, notes, steps = [], [], dict[int, str]()
    for name in matching:
        step = step_in_name(name, choice.step_from)
        if step is None:
            notes.append(f"left out revision {name}: it names no step")
        elif step.step in steps:
            raise DataError(
                f"revisions {steps[step.step]} and {name} of {repository} both count as step "
                f"{step.step}; choose by --revisions or --step-from"
            )
        else:
            steps[step.step] = name
            found.append(Revision(name, step.step))
    if not found:
        some = ", ".join(known[:5]) + (f" and {len(known) - 5} more" if len(known) > 5 else "")
        raise DataError(
            f"no revision of {repository} that names a step matches {pattern!r}; it has {some}. "
            "Quote the pattern: --revisions 'step*'"
        )
    return sorted(found, key=lambda one: one.step or 0), notes


def weight_files(repository: Repository) -> dict[str, int]:
    """List the files of a revision that hold its weights, with their sizes; DataError if none."""
    files = {
        name: size
        for name, size in list_files(repository).items()
        if not Path(name).name.startswith(_BESIDE)
    }
    prefix = f"{repository.path}/" if repository.path else ""
    for endings in _FORMATS:
        listed = tuple(f"{ending}.index.json" for ending in endings)
        if any(name.endswith(endings) for name in files):
            told = tuple(prefix + name for name in _TOLD)
            return {
                name: size
                for name, size in files.items()
                if name.endswith((*endings, *listed)) or name in told
            }
    raise DataError(
        f"{repository} at {repository.revision or 'main'} holds no weights; accepted: files ending "
        f"in {', '.join(e for endings in _FORMATS for e in endings)}. It may be another format, or "
        "the weights may lie in a folder: hf://OWNER/NAME/FOLDER"
    )


def import_revisions(
    url: str,
    output: str | os.PathLike[str],
    *,
    revisions: str | None = None,
    choice: Choice | None = None,
    codec: str = "dense",
    memory: int | str = "1GiB",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Make a run of revisions of a repository on the Hub, or go on with one.

    Parameters
    ----------
    url : str
        ``hf://OWNER/NAME[@REVISION][/FOLDER]``.
    output : str or path-like
        Local path or URL of the run. A run that was made of the same repository is gone on with.
    revisions : str, optional
        Pattern of branches and tags, such as ``step*``; each is one step. Without it, the one
        revision.
    choice : Choice, optional
        Which of the tensors, and how steps are read.
    codec, memory, overwrite
        As `import_checkpoints` takes them. As many revisions as `memory` holds, at least one, are
        on the disk before they are imported together and deleted.
    progress : callable, optional
        Called with the revisions done and all of them.

    Returns
    -------
    Imported
        What was taken over.

    Raises
    ------
    DataError
        If nothing matches, the Hub cannot be reached or does not let in, or a revision is no
        checkpoint; the run then holds those before it.
    NoSpaceError
        If a revision does not fit on the disk.
    StoreError
        If the path is taken, or cannot be written.
    """
    repository, choice = parse_repository(url), choice or Choice()
    earlier = None if overwrite else earlier_run(output, str(repository))
    found, notes = find_revisions(repository, revisions, choice)
    wanted = left_to_import(found, earlier)
    done = None if earlier is None else _as_it_is(earlier, notes)
    bound, pending = parse_memory(memory), _Pending()

    def write() -> Imported:
        series = Series(checkpoints=pending.checkpoints, notes=notes)
        written = import_series(
            series,
            output,
            source=str(repository),
            follow=not overwrite or done is not None,
            codec=codec,
            memory=memory,
            overwrite=overwrite and done is None,
        )
        pending.free()
        return written

    for count, one in enumerate(wanted):
        try:
            try:
                series = pending.fetch(repository, one, choice)
            except NoSpaceError:
                if not pending.checkpoints:
                    raise
                done = write()
                series = pending.fetch(repository, one, choice)
        except CkptlabError:
            if pending.checkpoints:
                write()
            raise
        notes += [note for note in series.notes if note not in notes]
        if pending.bytes > bound or count == len(wanted) - 1:
            done = write()
        if progress is not None:
            progress(len(found) - len(wanted) + count + 1, len(found))
    if done is None:
        raise DataError(f"{repository} has no revision to import")
    return replace(done, new=len(wanted), notes=notes)


def left_to_import(found: Sequence[Revision], earlier: StoredRun | None) -> list[Revision]:
    """Return the revisions whose steps a run does not hold."""
    held = set() if earlier is None else set(earlier.steps.tolist())
    return [one for one in found if one.step is None or one.step not in held]


@dataclass(slots=True)
class _Pending:
    """Revisions that are downloaded and not yet imported.

    A block of the run is written again with each import to it: several at once are written once.
    """

    checkpoints: list[Checkpoint] = field(default_factory=list)
    bytes: int = 0
    _folders: list[Path] = field(default_factory=list)

    def fetch(self, repository: Repository, one: Revision, choice: Choice) -> Series:
        """Download a revision, and open it."""
        at = replace(repository, revision=one.name)
        folder = cache_folder([str(repository).removeprefix("hf://"), one.name])
        files = weight_files(at)
        download(at, files, folder)
        series = open_checkpoint(folder / repository.path, choice, step=one.step)
        self.checkpoints += series.checkpoints
        self._folders.append(folder)
        self.bytes += sum(files.values())
        return series

    def free(self) -> None:
        """Delete what was downloaded."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        self.checkpoints, self._folders, self.bytes = [], [], 0


def _as_it_is(run: StoredRun, notes: list[str]) -> Imported:
    return Imported(
        path=run.path,
        steps=len(run.steps),
        new=0,
        first=int(run.steps[0]),
        last=int(run.steps[-1]),
        parameters=run.layout.parameters,
        notes=notes,
    )


def earlier_run(output: str | os.PathLike[str], source: str) -> StoredRun | None:
    """Open the run that is gone on with; RunExistsError if it is of another source."""
    storage = open_storage(output)
    if is_free(storage):
        return None
    imported = read_root(storage)[0].get("imported") or {}
    if imported.get("folder") != source:
        raise RunExistsError(
            f"{os.fspath(output)} exists and was not made of {source}; give another --output, or "
            "--overwrite to replace it"
        )
    return open_latest(storage)
