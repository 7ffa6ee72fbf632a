"""Read off a network which of its units may change places, by tracing its graph."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from ckptlab.analyze.model.weight_matching import Axes
from ckptlab.errors import ConfigError

_SAME_MODULES: tuple[type[nn.Module], ...] = (
    nn.ReLU,
    nn.Tanh,
    nn.GELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Identity,
    nn.Dropout,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
)
_SAME_FUNCTIONS: frozenset[Callable[..., Any]] = frozenset(
    {
        torch.relu,
        torch.relu_,
        torch.tanh,
        torch.flatten,
        functional.relu,
        functional.gelu,
        functional.avg_pool2d,
        functional.max_pool2d,
        functional.adaptive_avg_pool2d,
        functional.dropout,
    }
)
_SAME_METHODS: frozenset[str] = frozenset({"flatten", "mean", "relu", "add", "add_"})
_SUMS: frozenset[Callable[..., Any]] = frozenset({operator.add, operator.iadd, torch.add})


def symmetries(model: nn.Module) -> Axes:
    """Return the permutation of each axis of each parameter and buffer.

    Units are the channels and features between convolutions and linear layers; what is added has
    one order. Inputs and outputs of the network keep theirs.

    Raises
    ------
    ConfigError
        If the graph cannot be traced, or has parts of which it is not known what they do to units.
    """
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:
        raise _unknown(f"it cannot be traced ({type(error).__name__}: {error})") from error
    tracer = _Units(model)
    for node in graph.nodes:
        tracer.visit(node)
    return tracer.axes()


class _Units:
    """Follows the order of units through a graph; orders that meet in a sum become one."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules())
        self._orders: dict[fx.Node, str | None] = {}
        self._same: dict[str, str | None] = {}
        self._axes: dict[str, list[str | None]] = {}

    def visit(self, node: fx.Node) -> None:
        """Find the order of the units that a node gives."""
        if node.op in ("placeholder", "get_attr"):
            self._orders[node] = None
        elif node.op == "output":
            for source in node.all_input_nodes:
                self._join(self._orders[source], None)
        elif node.op == "call_module":
            self._orders[node] = self._through(str(node.target), self._orders[_first(node)])
        else:
            orders = [self._orders[source] for source in node.all_input_nodes]
            passes = node.target in (
                _SAME_METHODS if node.op == "call_method" else _SAME_FUNCTIONS | _SUMS
            )
            over = node.args[1:] or tuple(node.kwargs.values())
            if node.target in (torch.flatten, "flatten"):
                passes = passes and over in ((1,), (1, -1))
            if node.target == "mean":
                passes = passes and over in (((2, 3),), ((-2, -1),), ([2, 3],), ([-2, -1],))
            if not passes:
                raise _unknown(f"{node} is not known")
            for order in orders[1:]:
                self._join(orders[0], order)
            self._orders[node] = orders[0]

    def axes(self) -> Axes:
        """Return the axes by tensor, with the one name of orders that met."""
        return {
            tensor: tuple(self._root(name) for name in names)
            for tensor, names in self._axes.items()
        }

    def _through(self, name: str, order: str | None) -> str | None:
        module = self._modules[name]
        if isinstance(module, nn.Linear | nn.Conv2d) and getattr(module, "groups", 1) == 1:
            own = name
            self._note(f"{name}.weight", own, order, *[None] * (module.weight.ndim - 2))
            if module.bias is not None:
                self._note(f"{name}.bias", own)
            self._same[own] = own
            return own
        if isinstance(module, _BatchNorm):
            for part, tensor in (*module.named_parameters(), *module.named_buffers()):
                if tensor.ndim:
                    self._note(f"{name}.{part}", order)
            return order
        if isinstance(module, _SAME_MODULES):
            return order
        raise _unknown(f"{name} is of type {type(module).__name__}")

    def _note(self, tensor: str, *names: str | None) -> None:
        if tensor in self._axes:
            raise _unknown(f"{tensor} is used more than once")
        self._axes[tensor] = list(names)

    def _root(self, name: str | None) -> str | None:
        while name is not None and self._same[name] != name:
            name = self._same[name]
        return name

    def _join(self, one: str | None, other: str | None) -> None:
        """Give two orders one name; None, the order that must stay, wins."""
        first, second = self._root(one), self._root(other)
        if first != second:
            kept, gone = (first, second) if first is None or second is not None else (second, first)
            self._same[str(gone)] = kept


def _first(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]


def _unknown(why: str) -> ConfigError:
    return ConfigError(
        f"which units of the network may change places is not known: {why}. Declare it: "
        "Problem(permutations={...}), or permutations= of the metric"
    )
