"""Find the checkpoints of a series: which paths, by which reader, of which steps."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from ckptlab.errors import DataError
from ckptlab.record.convert.choose_weights import NoWeightsError, Weights, choose_weights
from ckptlab.record.convert.readers.foreign import foreign
from ckptlab.record.convert.readers.model_folder import weights_file
from ckptlab.record.convert.readers.registry import PICKLES, READERS, Reader, reader_of
from ckptlab.record.convert.step_numbers import NamedStep, step_in_name, step_inside
from ckptlab.record.convert.tensors import UNFINISHED, Content

_ENDS = re.compile(
    r"(?:^|[-_.])(?:best|last|latest|final|ema|current|min|max)(?:[-_.]|$)", re.IGNORECASE
)
_SUFFIXES = re.compile(r"(?:\.safetensors|\.pt|\.pth|\.ckpt|\.bin|\.tar)+$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What a user says about a series.

    Parameters
    ----------
    pattern : str, optional
        Which files or folders belong to it, such as ``stage1-*``.
    step_from : str, optional
        Regular expression with one group, the step in a name, or two: epoch and step.
    steps_per_epoch : int, optional
        Makes a step of an epoch and the step within it.
    key : str, optional
        The dict that holds the weights, as keys with dots between.
    weights : str, optional
        Which copy of the weights: ``ema`` or another name.
    reader : str, optional
        Reads every one of them.
    """

    pattern: str | None = None
    step_from: str | None = None
    steps_per_epoch: int | None = None
    key: str | None = None
    weights: str | None = None
    reader: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """One step of a series: a file or a folder."""

    step: int
    path: Path
    reader: Reader
    choice: Choice = field(default_factory=Choice)

    def open(self) -> tuple[Content, Weights]:
        """Read what it holds, without the tensors' elements; DataError if it cannot be read."""
        return _open(self.path, self.reader, self.choice)


@dataclass(kw_only=True, slots=True)
class Series:
    """Checkpoints in the order of their steps.

    `notes` says in a line each what was chosen and left out; `waiting` names what is not written to
    its end; `chosen` says which dict the weights are from.
    """

    checkpoints: list[Checkpoint]
    notes: list[str] = field(default_factory=list)
    waiting: Path | None = None
    chosen: str = ""


@dataclass(kw_only=True, slots=True)
class _Found:
    """A candidate: what its name says, and what it holds or why it cannot be read."""

    path: Path
    reader: Reader
    named: NamedStep | None
    inside: int | None = None
    error: DataError | None = None
    forms: frozenset[tuple[object, ...]] = frozenset()
    notes: list[str] = field(default_factory=list)
    chosen: str = ""
    trainer: bool = False


def open_checkpoint(
    path: str | os.PathLike[str], choice: Choice | None = None, *, step: int | None = None
) -> Series:
    """Return the one checkpoint that a file or a folder is, of a step that is known or it tells.

    DataError if it is none, or has no step.
    """
    place, choice = Path(path), choice or Choice()
    reader = READERS.find(choice.reader, "--reader") if choice.reader else reader_of(place)
    if reader is None:
        raise DataError(foreign(place) or f"{place} is no checkpoint that ckptlab knows")
    found = _look(place, reader, choice)
    if found.error is not None:
        raise found.error
    series = Series(checkpoints=[], notes=found.notes, chosen=found.chosen)
    if step is None:
        return _steps([found], choice, series)
    if found.inside not in (None, step):
        series.notes.append(f"took step {step}, which says step {found.inside} inside")
    series.checkpoints = [Checkpoint(step=step, path=place, reader=reader, choice=choice)]
    return series


def find_checkpoints(
    folder: str | os.PathLike[str], choice: Choice | None = None, *, same_types: bool = True
) -> Series:
    """Find the checkpoints in a folder, or the one that the folder is.

    Parameters
    ----------
    folder : str or path-like
        Its files and folders are looked at, each as one checkpoint.
    choice : Choice, optional
        What the user says about them.
    same_types : bool
        Whether tensors must be of one type at all steps.

    Returns
    -------
    Series
        By step, and what was left out.

    Raises
    ------
    DataError
        If there are none, one cannot be read or has no step, two have the same, there are two
        series, or the folder cannot be read.
    """
    place, choice = Path(folder), choice or Choice()
    series = Series(checkpoints=[])
    try:
        if not place.is_dir():
            raise DataError(f"{place} is no folder; give one that holds checkpoints")
        paths = _candidates(place, choice, series)
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error.strerror}") from error
    found = [_look(path, reader, choice) for path, reader in paths]
    found = _drop_unnumbered(found, series)
    found = _drop_unfinished(found, series)
    for one in found:
        if one.error is not None:
            raise one.error
    _require_one_model(found, same_types)
    series.chosen = found[0].chosen if found else ""
    for note, count in Counter(note for one in found for note in one.notes).items():
        series.notes.append(note if count == 1 else f"{note} (in {count} checkpoints)")
    return _steps(found, choice, series)


def _candidates(folder: Path, choice: Choice, series: Series) -> list[tuple[Path, Reader]]:
    """List what readers take: the files and folders in a folder, or the folder itself."""
    given = READERS.find(choice.reader, "--reader") if choice.reader else None
    if choice.pattern and (Path(choice.pattern).is_absolute() or ".." in choice.pattern):
        raise DataError(f"--pattern {choice.pattern!r} leads out of {folder}; give a name in it")
    entries = sorted(folder.glob(choice.pattern) if choice.pattern else folder.iterdir())
    if choice.pattern and not entries:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing"
        raise DataError(f"--pattern {choice.pattern!r} matches nothing; {folder} holds {there}")
    found: list[tuple[Path, Reader]] = []
    others: list[str] = []
    for path in entries:
        reader, note = _reader(path, given)
        if reader is not None:
            found.append((path, reader))
        elif note:
            others.append(note)
    whole = None if choice.pattern else (given or reader_of(folder))
    series_of_one = len(found) == 1 and weights_file(folder, alone=False) is None
    if whole is None or not whole.takes(folder) or any(reader.folder for _, reader in found):
        whole = None
    elif whole.name == "model-folder" and series_of_one:
        whole = None  # a file with its step in its name
    if whole is not None:
        return [(folder, whole)]  # the files are parts of one checkpoint
    if not found:
        raise DataError(
            next(iter(others), None)
            or f"{folder} holds no file that ends in .safetensors, {', '.join(PICKLES)}, and no "
            "folder of a checkpoint"
        )
    series.notes += [f"left out {note}" for note in others]
    return found


def _reader(path: Path, given: Reader | None) -> tuple[Reader | None, str | None]:
    """Find what reads an entry of a folder; if nothing does, say what it is where that helps."""
    if path.name.startswith("._"):
        return None, f"{path.name}: macOS's notes on a file"
    if path.name.startswith(".") or (path.is_dir() and (path / "zarr.json").is_file()):
        return None, None
    reader = given or reader_of(path)
    if reader is None:
        empty = path.is_dir() and step_in_name(path.name) is not None
        return None, foreign(path) or (f"{path.name}: a folder without a checkpoint" * empty)
    if path.is_symlink():
        return None, f"{path.name}: a link to {path.readlink()!s:.80}"
    if not path.is_dir() and not path.is_file():  # a pipe would be waited for
        raise DataError(f"{path} is no file that can be read; move it elsewhere")
    return reader, None


def _look(path: Path, reader: Reader, choice: Choice) -> _Found:
    stem = path.name if path.is_dir() else _SUFFIXES.sub("", path.name)
    found = _Found(path=path, reader=reader, named=None)
    try:
        content, weights = _open(path, reader, choice)
    except DataError as error:
        found.error = error
    else:
        found.inside = step_inside(content, weights.source)
        found.trainer = content.step is not None
        found.forms = frozenset((n, t.shape, t.dtype) for n, t in weights.tensors.items())
        found.notes = [*content.notes, *weights.notes]
        found.chosen = weights.chosen
    if found.inside is None or choice.step_from is not None or found.error is not None:
        found.named = step_in_name(stem, choice.step_from)
    else:
        try:
            found.named = step_in_name(stem)
        except DataError:  # the name is not asked
            found.named = None
    return found


def _open(path: Path, reader: Reader, choice: Choice) -> tuple[Content, Weights]:
    content = reader.open(path)
    return content, choose_weights(content, str(path), key=choice.key, weights=choice.weights)


def _drop_unnumbered(found: list[_Found], series: Series) -> list[_Found]:
    """Leave out what stands beside a numbered series: best, last, masks, optimizers."""
    numbered = [one for one in found if one.named is not None and not _is_end(one)]
    if not numbered:
        return found
    kept = []
    for one in found:
        if _is_end(one) or (one.named is None and one.inside is None):
            series.notes.append(
                f"left out {one.path.name}: beside the series, of no step of its own"
            )
        elif isinstance(one.error, NoWeightsError) and any(o.error is None for o in found):
            series.notes.append(f"left out {one.path.name}: it holds no model's tensors")
        else:
            kept.append(one)
    return kept


def _is_end(one: _Found) -> bool:
    return one.named is None and _ENDS.search(one.path.name) is not None


def _drop_unfinished(found: list[_Found], series: Series) -> list[_Found]:
    """Leave out the last checkpoint if it is not written to its end."""
    numbered = [(one.named.step, one) for one in found if one.named is not None]
    ordered = [one for _, one in sorted(numbered, key=lambda row: row[0])]
    if len(ordered) < 2:
        return found
    last = ordered[-1]
    unfinished = last.error is not None and last.error.problem == UNFINISHED
    if not unfinished and not (last.error is None and _lacks_state(ordered)):
        return found
    series.waiting = last.path
    why = str(last.error).removeprefix(f"{last.path} ") if last.error else "no trainer_state.json"
    series.notes.append(f"left out {last.path.name}: half-written ({why:.120})")
    return [one for one in found if one is not last]


def _lacks_state(ordered: list[_Found]) -> bool:
    """Return whether all but the last have what HF's Trainer writes at the end."""
    return not ordered[-1].trainer and all(one.trainer for one in ordered[:-1])


def _require_one_model(found: list[_Found], same_types: bool) -> None:
    for one in found[1:]:
        compared = 3 if same_types else 2
        mine, first = ({form[:compared] for form in o.forms} for o in (one, found[0]))
        if mine == first:
            continue
        odd = min((form[0] for form in one.forms ^ found[0].forms), key=str)
        here, there = (next((f for f in o.forms if f[0] == odd), None) for o in (one, found[0]))
        if here is None or there is None:
            lacking = one.path.name if here is None else found[0].path.name
            what = f"{lacking} lacks tensor {odd!r}, which the other has"
        else:
            what = f"tensor {odd!r} is {here[2]} of shape {here[1]}, there {there[2]} of {there[1]}"
        raise DataError(
            f"{one.path} and {found[0].path.name} are not of one model: {what}; import the parts "
            "apart with --pattern",
            file=str(one.path),
        )


def _steps(found: list[_Found], choice: Choice, series: Series) -> Series:
    inside = choice.step_from is None and all(one.inside is not None for one in found)
    rows: list[tuple[int, _Found]] = []
    if not inside and choice.steps_per_epoch is None:
        _take_epochs(found)
    for one in found:
        step = one.inside if inside else _named_step(one, choice)
        if step is None:
            raise DataError(
                f"{one.path} has no step in its name, and tells none; call it by its step, like "
                "step_500.pt, or give --step-from",
                file=str(one.path),
            )
        rows.append((step, one))
        named = one.named
        if inside and named is not None and not named.is_epoch and named.step != step:
            series.notes.append(f"{one.path.name} says step {step} inside, which counts")
    rows.sort(key=lambda row: (row[0], row[1].path.name))
    _require_one_series(rows, inside, choice)
    if not inside and found and all(one.named and one.named.is_epoch for one in found):
        series.notes.append("the steps are epochs: the names tell no others")
    series.checkpoints = [
        Checkpoint(step=step, path=one.path, reader=one.reader, choice=choice) for step, one in rows
    ]
    return series


def _take_epochs(found: list[_Found]) -> None:
    """Take epochs as steps where each name says that none of its steps are done."""
    named = [one.named for one in found if one.named is not None]
    if len(named) > 1 and all(n.epoch is not None and n.step == 0 for n in named):
        for one in found:
            if one.named is not None and one.named.epoch is not None:
                one.named = replace(one.named, step=one.named.epoch, is_epoch=True)


def _named_step(one: _Found, choice: Choice) -> int | None:
    named = one.named
    if named is None:
        return one.inside
    if choice.steps_per_epoch is not None and named.epoch is not None:
        within = 0 if named.is_epoch else named.step
        return named.epoch * choice.steps_per_epoch + within
    return named.step


def _require_one_series(rows: list[tuple[int, _Found]], inside: bool, choice: Choice) -> None:
    names = Counter(one.named.series for _, one in rows if one.named)
    twice = next((pair for pair in itertools.pairwise(rows) if pair[0][0] == pair[1][0]), None)
    _require_steps_in_order(rows, twice is not None, inside, choice)
    several = [name for name, count in names.items() if count > 1]
    apart = {one.named.series for _, one in twice if one.named} if twice else set()
    if len(several) > 1 or len(apart) > 1:
        listed = sorted(apart if len(apart) > 1 else several)
        raise DataError(
            f"{rows[0][1].path.parent} holds {len(names)} series: {', '.join(map(repr, listed))}; "
            f"take one with --pattern, such as --pattern '{listed[0].replace('#', '*')}*'",
            parameter="pattern",
        )
    if twice:
        (step, one), (_, other) = twice
        raise DataError(
            f"{one.path.name} and {other.path.name} both count as step {step}; rename or move one, "
            "or give --pattern or --step-from"
        )


def _require_steps_in_order(
    rows: list[tuple[int, _Found]], twice: bool, inside: bool, choice: Choice
) -> None:
    """Refuse names whose steps begin anew in each epoch."""
    names = [one.named for _, one in rows if one.named and not one.named.is_epoch]
    epochs = [named.epoch for named in names if named.epoch is not None]
    if inside or choice.steps_per_epoch is not None or len(epochs) < len(rows):
        return
    if epochs != sorted(epochs) or (twice and len(set(epochs)) > 1):
        raise DataError(
            f"{rows[0][1].path.parent}: the names count epochs and steps within them, such as "
            f"{rows[-1][1].path.name}; say how many steps an epoch has: --steps-per-epoch N",
            parameter="steps_per_epoch",
        )
