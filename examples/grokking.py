"""Grokking on modular addition: the test set is understood long after the training set is known.

A network with weight decay learns a + b modulo a prime from some of the pairs. It knows them by
heart early, and the others only much later, while the norm of its weights falls. Snapshots are
recorded at steps that are even on a logarithmic axis, so that 20,000 steps take little space.
``python examples/grokking.py`` takes minutes on two cores.

References
----------
Power, Burda, Edwards, Babuschkin & Misra (2022), arXiv:2201.02177; Liu, Michaud & Tegmark (2022),
arXiv:2210.01117.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import nn

import ckptlab


class Adder(nn.Module):
    """Embed both numbers, and find their sum with one hidden layer."""

    def __init__(self, prime: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(prime, width)
        self.hidden = nn.Linear(2 * width, 2 * width)
        self.head = nn.Linear(2 * width, prime)

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        """Return logits of the sum, shape (batch, prime), of pairs, shape (batch, 2)."""
        logits: torch.Tensor = self.head(torch.relu(self.hidden(self.embed(pairs).flatten(1))))
        return logits


@ckptlab.problem(name="grokking")
def grokking(prime: int = 59, width: int = 64, share: float = 0.5) -> ckptlab.Problem:
    """Add modulo a prime, from a share of all pairs."""
    numbers = torch.arange(prime)
    pairs = torch.cartesian_prod(numbers, numbers)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
    cut = int(share * len(pairs))
    halves = [(pairs[at], pairs[at].sum(1) % prime) for at in (order[:cut], order[cut:])]
    return ckptlab.Problem(
        model=lambda: Adder(prime, width),
        loss=nn.functional.cross_entropy,
        train=halves[0],
        test=halves[1],
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1.0),
    )


@ckptlab.metric(name="weight-norm", unit="weight", kind="snapshot")
def weight_norm(weights: np.ndarray) -> float:
    """L2 norm of the weights."""
    return float(np.linalg.norm(weights.astype(np.float64)))


def main() -> None:
    """Record, and print accuracy, weight norm and the embedding's spectrum along the run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", default="runs/grokking.zarr")
    parser.add_argument("--steps", type=int, default=20_000)
    given = parser.parse_args()
    settings = [
        f"train.steps={given.steps}",
        "train.batch_size=4096",  # all pairs at once
        "record.steps=log:20",
        "eval.steps=log:20",
    ]
    run = ckptlab.record_training(given.output, settings, problem="grokking")
    norm = run.analyze(weight_norm, kinds="all")
    rank = run.analyze("effective-rank", kinds="all").sel(tensor="embed.weight")
    known = run.dataset["batch_accuracy"]
    understood = run.analyze("evaluation")["eval_accuracy"]
    print("    step  training  test  weight norm  effective rank of the embedding")
    steps = np.intersect1d(understood.eval_step, norm.step)
    for step in [*steps[8:-1:8], steps[-1]]:
        print(
            f"{step:8,}  {float(known.sel(step=step)):8.0%}  "
            f"{float(understood.sel(eval_step=step)):4.0%}  {float(norm.sel(step=step)):11.1f}  "
            f"{float(rank.sel(step=step)):14.1f}"
        )


if __name__ == "__main__":
    main()
