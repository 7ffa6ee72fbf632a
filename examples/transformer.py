"""A network of one's own in every experiment: a small transformer on Python's documentation.

It learns to write the next character of the text that every Python brings along. One file says what
is learnt; recording, pruning with rewinding, perturbing, connecting, studies and reports need no
more::

    export CKPTLAB_PLUGINS=examples/transformer.py
    ckptlab record -S problem.name=transformer -S train.steps=300 -o runs/text.zarr
    ckptlab imp runs/text.zarr --rewind 0,50 --levels 3 --pruning imp,snip
    ckptlab perturb runs/text.zarr --at 50 --kind shuffle:layer,keep-signs --kind noise:1
    ckptlab connect runs/text.zarr --at 0,50
    ckptlab analyze hessian-spectrum runs/text.zarr --steps 0:301:100
    ckptlab study examples/transformer.toml -o runs/text-study
    ckptlab report runs/text-study

``python examples/transformer.py`` records it and prints what it has learnt; half a minute on two
cores.
"""

from __future__ import annotations

import argparse
from pydoc_data import topics

import torch
from torch import nn
from torch.nn import functional as F

import ckptlab

SYMBOLS = 128
HEADS = 2

Halves = tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Block(nn.Module):
    """Attention to what came before, and a small network on each position."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add what attention and the network find to `x`, shape (batch, time, width)."""
        batch, time, width = x.shape
        normed = self.norm1(x)
        query, key, value = (
            part(normed).view(batch, time, HEADS, width // HEADS).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, time, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Logits of the next character, from those before."""

    def __init__(self, width: int, layers: int, context: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(SYMBOLS, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, SYMBOLS)

    def forward(self, symbols: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (batch, time, symbols)."""
        x = self.embed(symbols) + self.position.weight[: symbols.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.head(self.norm(x))
        return logits


def next_character(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the next characters, the mean over all of a batch."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def text(context: int, windows: int) -> Halves:
    """Cut Python's documentation into windows, the last fifth of them for the test."""
    joined = "\n".join(topics.topics[name] for name in sorted(topics.topics))
    symbols = torch.tensor([min(ord(letter), SYMBOLS - 1) for letter in joined])
    cut = symbols[: windows * context + 1]
    inputs, targets = cut[:-1].view(windows, context), cut[1:].view(windows, context)
    kept = windows - windows // 5
    return (inputs[:kept], targets[:kept]), (inputs[kept:], targets[kept:])


def symmetries(layers: int) -> dict[str, tuple[str | None, ...]]:
    """Name the axes whose units may change places: the stream, the heads, the hidden units."""
    found: dict[str, tuple[str | None, ...]] = {
        "embed.weight": (None, "stream"),
        "position.weight": (None, "stream"),
        "norm.weight": ("stream",),
        "norm.bias": ("stream",),
        "head.weight": (None, "stream"),
    }
    for i in range(layers):
        heads, hidden = f"heads{i}:{HEADS}", f"hidden{i}"
        axes: dict[str, tuple[str | None, str | None]] = {
            **dict.fromkeys(("query", "key", "value"), (heads, "stream")),
            "out": ("stream", heads),
            "up": (hidden, "stream"),
            "down": ("stream", hidden),
        }
        for name, (to, source) in axes.items():
            found[f"blocks.{i}.{name}.weight"] = (to, source)
            found[f"blocks.{i}.{name}.bias"] = (to,)
        for norm in ("norm1", "norm2"):
            found[f"blocks.{i}.{norm}.weight"] = ("stream",)
            found[f"blocks.{i}.{norm}.bias"] = ("stream",)
    return found


@ckptlab.problem(name="transformer")
def transformer(
    width: int = 32, layers: int = 2, context: int = 32, windows: int = 1000
) -> ckptlab.Problem:
    """Write the next character of Python's documentation."""
    train, test = text(context, windows)
    return ckptlab.Problem(
        model=lambda: Transformer(width, layers, context),
        loss=next_character,
        train=train,
        test=test,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.1),
        permutations=symmetries(layers),
    )


def main() -> None:
    """Record the transformer, and print what it has learnt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", default="runs/transformer.zarr")
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    settings = [f"train.steps={given.steps}", "train.batch_size=64"]
    run = ckptlab.record_training(given.output, settings, problem="transformer")
    found = run.analyze("evaluation")
    first, last = (found.isel(eval_step=at) for at in (0, -1))
    print(f"{float(first['eval_loss']):.2f} -> {float(last['eval_loss']):.2f} nats a character")
    print(f"{float(last['eval_accuracy']):.0%} of the next characters are right")


if __name__ == "__main__":
    main()
