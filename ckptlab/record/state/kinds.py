"""Tell the kind of each parameter: from what its module does, or from its name and shape alone."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Protocol

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from ckptlab.store.format.parts import split_name

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_CONVOLUTIONS = (nn.modules.conv._ConvNd,)
_LINEAR = (nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)

_TOKEN = re.compile(r"(^|_)(pos|position|positional|cls|class|mask|dist|reg|register)_(embed|tok)")
"""Of parameters that are learned positions and tokens, such as a vision transformer's."""

_EMBEDDED = re.compile(r"embed(?!_?out)|^wte$|^wpe$", re.IGNORECASE)
_HEAD = re.compile("unembed", re.IGNORECASE)
_MATRIX = re.compile(r"weight|kernel|_proj$|^w\d?$|_w$|^v1$|^lora_", re.IGNORECASE)
"""Of parameters that modules multiply by: Flax has ``kernel``, fused experts ``gate_up_proj``."""

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_CONSTANTS = ("inv_freq", "masked_bias")
_REPARAMETRIZED = re.compile(r"(.+)_(mask|u|v)$")


class Shaped(Protocol):
    """A tensor, or what stands for one before it is read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        ...


def parameter_kinds(model: nn.Module) -> dict[str, str]:
    """Return the kind of every parameter, by its name in ``model.named_parameters()``."""
    modules = dict(model.named_modules())
    kinds: dict[str, str] = {}
    for prefix, module in modules.items():
        owner, tensor = module, None
        if isinstance(module, ParametrizationList):
            # "layer.parametrizations.weight" holds what the layer's weight is computed from.
            path, _, tensor = prefix.rpartition(".")
            owner = modules[path.rpartition(".")[0]]
        scales = _scales(module)
        for name, parameter in module.named_parameters(recurse=False):
            known = "other" if name in scales else _kind(owner, tensor or name, parameter.ndim)
            kinds[f"{prefix}.{name}" if prefix else name] = known
    return kinds


def _scales(module: nn.Module) -> set[str]:
    """Name the parameters that weight normalization splits off: they scale a weight."""
    own = dict(module.named_parameters(recurse=False))
    if isinstance(module, ParametrizationList):
        largest = max(own, key=lambda name: (own[name].numel(), name), default="")
        return set(own) - {largest}
    return {name for name in own if name.endswith("_g") and f"{name[:-1]}v" in own}


def _kind(module: nn.Module, name: str, ndim: int) -> str:
    """Go by torch's own classes and, for others, by the name of the class and the shape."""
    called = type(module).__name__.lower()
    if isinstance(module, _NORMS) or (ndim <= 1 and "norm" in called):
        return "norm"
    if isinstance(module, _EMBEDDINGS):
        return "embedding"
    if isinstance(module, _LINEAR + _CONVOLUTIONS) and "weight" in name:
        return "conv" if isinstance(module, _CONVOLUTIONS) else "linear"
    if ndim > 2 and "weight" in name:
        # A kernel has two axes of channels and one of space.
        return "conv" if "conv" in called or hasattr(module, "kernel_size") else "linear"
    return _named("embedding" if "embedding" in called else "", name, ndim)


def kind_of(name: str, state: Mapping[str, Shaped]) -> str:
    """Guess what a parameter is from its name, its shape and what lies beside it.

    Parameters
    ----------
    name : str
        Of the parameter.
    state : mapping of str to a tensor or what has its `shape`
        All tensors of the model.

    Returns
    -------
    str
        One of `KINDS`.
    """
    owner, own = split_name(name)
    beside, ndim = f"{owner}." if owner else "", len(state[name].shape)
    weight = state.get(f"{beside}weight", state.get(f"{beside}gamma"))
    paired = weight is not None and len(weight.shape) == 1
    if own == "gamma":
        paired &= f"{beside}beta" in state
    called = owner.rpartition(".")[2]
    normed = own in ("weight", "bias", "gamma", "beta") and "prelu" not in called
    if normed and (paired or f"{beside}running_mean" in state):
        return "norm"
    if own == "scale" and ndim == 1 and f"{beside}kernel" not in state:
        return "norm"
    if _is_scale(name, state):
        return "other"
    if ndim > 2 and (own in ("weight", "kernel") or "weight_" in own) and "expert" not in name:
        return "conv"
    return _named(called, own, ndim)


def is_buffer(name: str, state: Mapping[str, Shaped]) -> bool:
    """Return whether a tensor's name says that modules keep it as a buffer.

    Parameters
    ----------
    name : str
        Of the tensor: batch norm's statistics, the masks of `torch.nn.utils.prune`, the vectors of
        spectral normalization, the constants of attention.
    state : mapping of str to a tensor or what has its `shape`
        All tensors of the model.

    Returns
    -------
    bool
        False for parameters.
    """
    own = name.rpartition(".")[2]
    if found := _REPARAMETRIZED.match(own):
        beside = name[: len(name) - len(own)]
        if f"{beside}{found[1]}_orig" in state:
            return True
    if own in ("_u", "_v"):
        return ".parametrizations." in name
    causal = own == "bias" and len(state[name].shape) == 4
    return causal or own in _STATISTICS or own in _CONSTANTS


def _is_scale(name: str, state: Mapping[str, Shaped]) -> bool:
    """Return whether a tensor is a factor that weight normalization splits off."""
    if name.endswith("_g") and f"{name[:-1]}v" in state:
        return True
    prefix, found, _ = name.rpartition(".original")
    if not found or ".parametrizations." not in name:
        return False
    parts = [other for other in state if other.startswith(f"{prefix}.original")]
    return name != max(parts, key=lambda other: (math.prod(state[other].shape), other))


def _named(owner: str, name: str, ndim: int) -> str:
    """Go by the names of a tensor and of the module that owns it."""
    if ndim > 1 and (_TOKEN.search(name) or name == "embedding"):
        return "embedding"
    if "bias" in name:
        return "bias"
    if ndim < 2 or not _MATRIX.search(name):
        return "other"
    return "embedding" if _EMBEDDED.search(owner) and not _HEAD.search(owner) else "linear"
