"""Hold what is learnt: the one thing that training, experiments and metrics on a model need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ckptlab.errors import ConfigError
from ckptlab.problems.examples import Examples, as_examples
from ckptlab.problems.scores import Accuracy, MeanLoss, right_answers

Permutations = Mapping[str, Sequence[str | None]]
"""Permutation of each axis of each tensor, by the tensor's name; None is an axis that stays."""


@dataclass(kw_only=True, eq=False)
class Problem:
    """What a network learns: all that recording, rewinding, perturbing and measuring need.

    Parameters
    ----------
    model : callable
        Makes a new network each time, with the initial weights it draws from torch's generator;
        called without arguments.
    loss : callable
        ``loss(outputs, targets)`` returns the mean over a batch, a tensor of shape ().
    train, test : (inputs, targets), torch dataset or object
        The examples: two tensors over them, a map-style dataset of such pairs, or an object with
        ``len`` and ``take(index)``. If a training object has ``batch(index, step)``, updates see
        what that returns; it must depend on its arguments alone.
    optimizer : callable, optional
        Makes the optimizer of the parameters it is given; its learning rates are scaled by
        ``optim.schedule``. Without one, ``optim.name`` names it.
    accuracy : callable, optional
        ``accuracy(outputs, targets)``: what counts as accuracy, one value for each example; by
        default the share of right answers where targets are classes, else NaN.
    answers : sequence of str, optional
        Names of the classes. A state of another number of classes may then be trained on, with a
        new output layer.
    permutations : mapping, optional
        For weight matching: by name of a parameter or buffer, the name of the permutation of each
        axis, or None. By default it is read off the network.

    Raises
    ------
    ConfigError
        If one of these cannot be used.

    Examples
    --------
    >>> Problem(  # doctest: +SKIP
    ...     model=lambda: nn.Linear(3, 1),
    ...     loss=nn.functional.mse_loss,
    ...     train=(x, y),
    ...     test=(u, v),
    ...     optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
    ... )
    """

    model: Callable[[], Any]
    loss: Callable[[Any, Any], Any]
    train: Any
    test: Any
    optimizer: Callable[..., Any] | None = None
    accuracy: Accuracy | None = None
    answers: Sequence[str] = ()
    permutations: Permutations | None = None
    mean_loss: MeanLoss = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.model, nn.Module):
            raise ConfigError(
                "Problem(model=...) is a module itself; give the function or class that makes it"
            )
        self.score: Accuracy = right_answers if self.accuracy is None else self.accuracy
        for name in ("model", "loss", "optimizer", "accuracy"):
            value = getattr(self, name)
            if not callable(value) and (value is not None or name in ("model", "loss")):
                raise ConfigError(f"Problem({name}=...) is {value!r:.80}; it must be a function")
        self.train: Examples = as_examples(self.train, "Problem(train=...)")
        self.test: Examples = as_examples(self.test, "Problem(test=...)")
        self.mean_loss = MeanLoss(self.loss)
