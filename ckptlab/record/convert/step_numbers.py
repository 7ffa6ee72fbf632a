"""Tell the step of a checkpoint: from what the user says, from what it holds, from its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ckptlab.errors import ConfigError, DataError
from ckptlab.record.convert.tensors import Content, LazyTensor

MAX_DIGITS = 15  # what a float64 axis holds

_NUMBER = r"(\d{1,3}(?:_\d{3})+(?!\d)|\d+(?:\.\d+(?=[kKmM]))?)([kKmM](?![a-zA-Z0-9]))?"
_GAP = r"[-_=. ]?"
_WORDS = (
    # Not the ends of other words: deep2_500.pt is of step 500.
    r"(?:global[-_]?|train(?:ing)?[-_]?|time)?steps?|updates?|num[-_]updates",
    r"iter(?:ation)?s?|it",
    r"ba(?:tch)?",
    r"checkpoint|ckpt|chkpt|chkpnt",
    r"s",  # beside an epoch: e10_s500
)
_EPOCH = re.compile(rf"(?<![a-z])(?:ep(?:och)?|e){_GAP}(\d+)", re.IGNORECASE)
_OTHER = re.compile(r"(?<![a-z])(val|valid|validation|eval|test|best)[-_.]?$", re.IGNORECASE)
_STEPS = tuple(
    re.compile(
        # In checkpoint_1_5000 the first is the epoch.
        rf"(?<![a-z])(?:{words}){_GAP}{_NUMBER}" + r"(?![-_]?\d)" * words.startswith("checkpoint"),
        re.IGNORECASE,
    )
    for words in _WORDS
)
_LAST = re.compile(r"(?<![\d.])(\d+)(?![\d.]*\d)(?!.*\d)")
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T_ -]?\d\d[:.-]\d\d(?:[:.-]\d\d)?)?|(?<!\d)\d{8}[-_T]\d{4,6}(?!\d)"
    r"|\d\d[:-]\d\d[:-]\d\d"
)
_NO_STEP = re.compile(
    # Numbers of something else: seeds, ranks, versions, sizes, metrics.
    r"(?<![a-z])(?:seed|rank|run|rep|replicate|fold|gpu|v|version|best|top|lr|bs|tokens?"
    r"|(?:val|train|test|eval)?[-_]?(?:acc(?:uracy)?|loss|auc|f1|bleu|wer|ppl|psnr|map|iou|metric"
    r"|score))[-_=. ]?\d+(?:\.\d+)?[a-z]*"
    r"|\d+\.\d+|\d+(?:\.\d+)?(?:BT?|[bB]it|px|hz)(?![a-z])|(?<=[a-zA-Z]{5})\d+(?=[-_.])",
    re.IGNORECASE,
)
INSIDE = (
    "global_step",
    "global_steps",
    "iteration",
    "iter_num",
    "num_updates",
    "step",
    "iter",
)
"""Keys under which checkpoints tell their step, the surest first."""


@dataclass(frozen=True, slots=True)
class NamedStep:
    """The step in a name: `series` is what stands before it, which steps of one series share.

    `epoch` is the epoch if the name has one; `is_epoch` says that it has nothing else.
    """

    step: int
    series: str
    epoch: int | None = None
    is_epoch: bool = False


def step_in_name(name: str, expression: str | None = None) -> NamedStep | None:
    """Read the step from a file's or folder's name without its suffix; None if it has none.

    `expression` is a regular expression with one group, the step, or two: epoch and step. DataError
    if the name could mean several steps, or one that no training reaches.
    """
    if expression is not None:
        return _by_expression(name, expression)
    found = _EPOCH.search(name)
    epoch = int(found[1]) if found else None
    for pattern in _STEPS:
        matches = [m for m in pattern.finditer(name) if not _OTHER.search(name[: m.start()])]
        if len({_count(m) for m in matches}) > 1:
            raise DataError(
                f"{name} names several steps ({', '.join(m[0] for m in matches)}); say which by "
                "--step-from, such as --step-from 'train_step(\\d+)'",
                parameter="step_from",
            )
        if matches:
            return NamedStep(_count(matches[0]), _series(name[: matches[0].start()]), epoch)
    if found:
        number = _checked(found[1], name)
        return NamedStep(number, _series(name[: found.start()]), number, is_epoch=True)
    rest = name
    for other in (_TIME, _NO_STEP):
        rest = other.sub(lambda m: "#" * len(m[0]), rest)
    last = _LAST.search(rest)
    return NamedStep(_checked(last[1], name), _series(name[: last.start()])) if last else None


def _by_expression(name: str, expression: str) -> NamedStep | None:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise ConfigError(
            f"--step-from {expression!r} is no regular expression: {error}"
        ) from error
    if pattern.groups not in (1, 2):
        raise ConfigError(
            f"--step-from {expression!r} has {pattern.groups} groups; accepted: one, the step, or "
            "two, epoch and step, such as 'ep(\\d+)_it(\\d+)'",
            parameter="step_from",
        )
    match = pattern.search(name)
    if match is None:
        return None
    *epoch, step = match.groups()
    if not all(part and re.fullmatch(r"[\d_,]+", part) for part in (*epoch, step)):
        raise ConfigError(f"--step-from {expression!r} finds {match[0]!r} in {name}: no number")
    counted = [_checked(part.replace("_", "").replace(",", ""), name) for part in (*epoch, step)]
    return NamedStep(counted[-1], "", counted[0] if epoch else None)


def _count(match: re.Match[str]) -> int:
    number, unit = match[1].replace("_", ""), (match[2] or "").lower()
    scale = {"": 1, "k": 1000, "m": 1_000_000}[unit]
    whole, _, part = number.partition(".")
    digits = len(str(scale)) - 1
    return _checked(whole, match.string) * scale + int(part[:digits].ljust(digits, "0") or 0)


def _checked(digits: str, name: str) -> int:
    if len(digits.lstrip("0")) > MAX_DIGITS:
        raise DataError(f"{name}: {digits:.40} is no step; at most {MAX_DIGITS} digits are")
    return int(digits)


def _series(prefix: str) -> str:
    """Return what a series shares before its steps: seeds and stages count, other numbers not."""
    kept = re.compile(r"(?:seed|stage|ingredient|run|rep|fold|rank)[-_=]?\d+$", re.IGNORECASE)
    return re.sub(r"\d+", lambda m: m[0] if kept.search(prefix[: m.end()]) else "#", prefix).strip(
        "-_. "
    )


def step_inside(content: Content, weights: Mapping[str, Any] | None = None) -> int | None:
    """Return the step that a checkpoint tells itself, which is not one of the model's tensors."""
    if content.step is not None:
        return content.step
    tree = content.tree
    state = tree.get("state")
    for place in (tree, state if isinstance(state, Mapping) else {}, tree.get("train_state")):
        if not isinstance(place, Mapping) or place is weights:
            continue
        for key in INSIDE:
            if (step := _whole(place.get(key))) is not None:
                return step
        stamp = place.get("timestamp")
        stamp = stamp.get("Timestamp", stamp) if isinstance(stamp, Mapping) else {}
        if isinstance(stamp, Mapping) and (step := _whole(stamp.get("batch"))) is not None:
            return step
    return None


def _whole(value: object) -> int | None:
    if isinstance(value, LazyTensor):
        if value.size != 1 or value.flaw or "int" not in value.dtype or value.dtype == "bfloat16":
            return None
        value = int(value.elements(0, 1)[0])
    if isinstance(value, Mapping):  # Composer's counts are {"value": 100, …}
        value = value.get("value")
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < 10**MAX_DIGITS else None  # type: ignore[operator,return-value]
