"""Find the model's tensors in what a checkpoint holds, and say what was chosen and left out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ckptlab.errors import DataError
from ckptlab.record.convert.tensors import Content, LazyTensor

STATES = (
    *("state_dict", "model_state_dict", "model", "net", "module", "weights", "params"),
    *("network", "model_state", "state"),
)
"""Keys under which checkpoints keep the model's tensors beside the optimizer's and others."""

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Names that torch.compile, FSDP and activation checkpointing put on the way to a tensor."""

OPTIMIZER = re.compile(r"optim(izer)?s?(_\d+)?(_states?)?(_dict)?")
"""Keys under which checkpoints keep the state of an optimizer."""

_AVERAGED = re.compile(r"(?:^|_)(?:ema|swa|averaged?|shadow|polyak|best)(?:_|$)", re.IGNORECASE)
_BESIDE = re.compile(
    r"^opt|optim|sched|scaler|rng|random|loops?$|callback|hyper|param_groups|^h?args|config|loader"
    r"|dataset|sampler|^grad|loss|metric|history|^amp$|timestamp|integrations|train_state",
    re.IGNORECASE,
)


class NoWeightsError(DataError):
    """A file holds no tensors of a model: an optimizer's, or a mask's."""


@dataclass(kw_only=True, slots=True)
class Weights:
    """The tensors of a model by name, ties under each of their names, in the checkpoint's order.

    `chosen` says where they lie; `notes` what lies beside and was left out; `source` is the dict
    they come from.
    """

    tensors: dict[str, LazyTensor]
    chosen: str = ""
    notes: list[str] = field(default_factory=list)
    source: Mapping[str, Any] | None = None


def choose_weights(
    content: Content, label: str, *, key: str | None = None, weights: str | None = None
) -> Weights:
    """Choose the model's tensors of a checkpoint.

    Parameters
    ----------
    content : Content
        What the checkpoint holds.
    label : str
        Its name, for errors.
    key : str, optional
        The dict that holds them, as keys with dots between: ``state.model``.
    weights : str, optional
        Which of several copies: ``ema`` for the averaged ones; by default the model's own.

    Returns
    -------
    Weights
        Named as in the model, without the wrappers.

    Raises
    ------
    DataError
        If there are none, or a key is not there.
    """
    if weights in content.copies:
        content, weights = content.copies[weights](), None
    node: Mapping[str, Any] = content.tree
    if key is not None:
        found = _at_key(node, key, label)
        place = key
    elif weights is not None and weights != "model":
        found, place = _copy(node, weights, label)
    else:
        # An optimizer's state that is read comes with the run: it is not left out.
        read = content.optimizers is not None
        found = {k: v for k, v in node.items() if not (read and OPTIMIZER.fullmatch(k))}
        place = ""
    chosen = _descend(found, place) if key is None else Weights(tensors={}, chosen=key)
    source = chosen.source if chosen.source is not None else found
    if not chosen.tensors:
        chosen.tensors = dict(flatten(source))
        chosen.source = source
    if not chosen.tensors:
        raise NoWeightsError(
            f"{label} holds no tensors by name, neither itself nor under {', '.join(STATES)}"
            + (f"; it holds {', '.join(list(node)[:8])}" if node else ""),
            file=label,
        )
    others = [name for name, value in source.items() if not _has_tensors(value)]
    if others and any(isinstance(value, LazyTensor) for value in source.values()):
        chosen.notes.append(f"left out {_few(others)}: no tensor")
    if chosen.chosen and not any(note.startswith("took") for note in chosen.notes):
        chosen.notes.insert(0, f"took {chosen.chosen}")
    for alias, name in content.ties.items():
        if name in chosen.tensors and alias not in chosen.tensors:
            chosen.tensors[alias] = chosen.tensors[name]
    _clean(chosen, label)
    _require_values(chosen, label)
    return chosen


def _require_values(weights: Weights, label: str) -> None:
    for name, tensor in weights.tensors.items():
        if "flat_param" in name:
            raise DataError(
                f"{label} holds FSDP's flat parameter {name!r}, which no model has; save the full "
                "state dict (StateDictType.FULL_STATE_DICT), or with torch.distributed.checkpoint"
            )
        if "device meta" in tensor.flaw:
            raise DataError(
                f"{label}: tensor {name!r} holds no values (device meta); save it again"
            )


def flatten(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, LazyTensor]]:
    """Yield the tensors in nested dicts and lists, with dots between the keys."""
    for key, value in node.items():
        if isinstance(value, LazyTensor):
            yield f"{prefix}{key}", value
        elif inner := _as_dict(value):
            yield from flatten(inner, f"{prefix}{key}.")


def _as_dict(value: object) -> Mapping[str, Any] | None:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list):
        return {str(index): item for index, item in enumerate(value)}
    return None


def _has_tensors(value: object) -> bool:
    if isinstance(value, LazyTensor):
        return True
    return any(map(_has_tensors, (_as_dict(value) or {}).values()))


def _is_optimizer(value: object) -> bool:
    return isinstance(value, Mapping) and "param_groups" in value and "state" in value


def _models(node: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the dicts that may hold a model's tensors, or a part of them."""
    return {
        key: inner
        for key, value in node.items()
        if (inner := _as_dict(value)) is not None
        and not _BESIDE.search(key)
        and not _is_optimizer(inner)
        and _has_tensors(inner)
    }


def _descend(node: Mapping[str, Any], place: str) -> Weights:
    """Follow the keys under which checkpoints keep a model."""
    if _is_optimizer(node):
        return Weights(tensors={}, source={})
    models = _models(node)
    main = next((key for key in STATES if key in models), None)
    bare = [key for key, value in node.items() if isinstance(value, LazyTensor)]
    if main is None:
        averaged = [key for key in models if _AVERAGED.search(key)]
        if len(models) == 1 and averaged and not bare:
            return _descend(models[averaged[0]], f"{place}.{averaged[0]}".lstrip("."))
        others = [key for key in node if key not in models and _has_tensors(node[key])]
        others = [key for key in others if key not in bare]
        kept = {key: value for key, value in node.items() if key not in others}
        found = Weights(tensors={}, chosen=place, source=kept)
        if not bare and len(models) > 1:
            found.chosen = f"{place}: " * bool(place) + _few(list(models))
            found.notes.append(
                f"took all of {_few(list(models))}; to take one: --key {next(iter(models))}"
            )
        if others and not place:
            found.notes.append(f"left out {_few(others)}: not the model's")
        return found
    model = models.pop(main)
    notes = []
    names = {name: tensor.shape for name, tensor in flatten(model)}
    copies = [
        key
        for key, value in models.items()
        if _AVERAGED.search(key) or {n: t.shape for n, t in flatten(value)} == names
    ]
    parts = [key for key in models if key not in copies]
    notes += [
        f"took {main}, left out {copy}: another copy (--weights {copy} takes it)" for copy in copies
    ]
    if bare:
        notes.append(f"left out {_few(bare)}: beside {main}")
    other = [
        key
        for key, value in node.items()
        if key not in (main, *models, *bare) and (_has_tensors(value) or _is_optimizer(value))
    ]
    if other:
        notes.append(f"left out {_few(other)}: not the model's")
    if parts:
        taken = {key: node[key] for key in (main, *parts)}
        notes.append(f"took all of {_few(list(taken))}; to take one: --key {main}")
        return Weights(tensors={}, chosen=_few(list(taken)), notes=notes, source=taken)
    found = _descend(model, f"{place}.{main}".lstrip("."))
    found.notes[:0] = notes
    return found


def _at_key(tree: Mapping[str, Any], key: str, label: str) -> Mapping[str, Any]:
    """Follow keys with dots between; a key may hold dots itself."""
    node: Any = tree
    rest = key
    while rest:
        inner = _as_dict(node) or {}
        fits = [name for name in inner if rest == name or rest.startswith(f"{name}.")]
        if not fits:
            there = ", ".join(list(inner)[:12]) or "nothing"
            raise DataError(
                f"--key {key}: {label} holds no {rest!r} there; it holds {there}", parameter="key"
            )
        name = max(fits, key=len)
        node, rest = inner[name], rest[len(name) + 1 :]
    found = _as_dict(node)
    if found is None:
        raise DataError(f"--key {key}: in {label} that is no dict of tensors", parameter="key")
    return found


def _copy(
    tree: Mapping[str, Any], weights: str, label: str, place: str = ""
) -> tuple[Mapping[str, Any], str]:
    """Find a copy of the model's tensors by its name, or by a part of it."""
    seen: list[str] = []
    queue: list[tuple[Mapping[str, Any], str]] = [(tree, place)]
    while queue:
        node, place = queue.pop(0)
        models = _models(node)
        seen += models
        exact = [key for key in models if key.lower() == weights.lower()]
        fits = exact or [key for key in models if weights.lower() in key.lower()]
        if len(fits) > 1:
            raise DataError(
                f"--weights {weights}: {label} has {', '.join(fits)}; give one of them",
                parameter="weights",
            )
        if fits:
            return models[fits[0]], f"{place}.{fits[0]}".lstrip(".")
        queue += [(models[key], f"{place}.{key}") for key in STATES if key in models]
    raise DataError(
        f"--weights {weights}: {label} has none of that name; it has {_few(seen) or 'none'}",
        parameter="weights",
    )


def _clean(weights: Weights, label: str) -> None:
    """Take the names of wrappers out of the tensors' names."""
    tensors = weights.tensors
    averaged = all(name.startswith("module.") or name == "n_averaged" for name in tensors)
    if averaged and tensors.pop("n_averaged", None) is not None:
        weights.notes.append("left out n_averaged: how many states were averaged (SWA)")
    plain = {name: ".".join(p for p in name.split(".") if p not in WRAPPERS) for name in tensors}
    while plain and all(name.startswith("module.") for name in plain.values()):
        plain = {raw: name.removeprefix("module.") for raw, name in plain.items()}
    if len(set(plain.values())) < len(plain):
        twice = next(n for n in plain.values() if [*plain.values()].count(n) > 1)
        raise DataError(
            f"{label} holds {twice!r} twice, with and without a wrapper's name; save one model"
        )
    if any(raw != name for raw, name in plain.items()):
        weights.notes.append("took wrappers' names (module., _orig_mod, …) out of the tensors'")
    weights.tensors = {plain[raw]: tensor for raw, tensor in tensors.items()}


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
