"""Tell the kind of each parameter from what its module does: convolution, linear map, norm, …."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_CONVOLUTIONS = (nn.modules.conv._ConvNd,)
_LINEAR = (nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


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
    if "bias" in name:
        return "bias"
    if "weight" not in name:
        return "other"
    if isinstance(module, _CONVOLUTIONS):
        return "conv"
    if isinstance(module, _LINEAR):
        return "linear"
    if ndim < 2:
        return "other"
    if "embedding" in called:
        return "embedding"
    # GPT-2's `Conv1D` multiplies by a matrix; a kernel has two axes of channels and one of space.
    return "conv" if ndim > 2 and ("conv" in called or hasattr(module, "kernel_size")) else "linear"
