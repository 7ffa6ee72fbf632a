"""Record a loop of one's own, and measure it: a small transformer with AdamW.

It learns to write the next character of Python's own documentation, which every Python brings
along. Run it with ``python examples/own_loop.py``; on two cores it takes less than a minute.
"""

from __future__ import annotations

import argparse
from pydoc_data import topics

import torch
from torch import nn
from torch.nn import functional as F

import ckptlab

CONTEXT = 64
BATCH = 16
WIDTH = 64
HEADS = 4


class Block(nn.Module):
    """Attention to what came before, and a small network on each position."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attend = nn.Linear(WIDTH, 3 * WIDTH)
        self.project = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the same shape, (batch, position, width)."""
        shape = (*x.shape[:2], HEADS, WIDTH // HEADS)
        parts = self.attend(self.norm1(x)).chunk(3, dim=-1)
        query, key, value = (part.view(shape).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.project(seen.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Writer(nn.Module):
    """A character in, logits of the next one out; both ends share their weights."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(characters, WIDTH)
        self.place = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, characters, bias=False)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.head.weight = self.embed.weight  # tied: recorded once, restored under both names

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """Return logits, (batch, position, character)."""
        x = self.embed(text) + self.place.weight[: text.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def load_text() -> tuple[torch.Tensor, int]:
    """Return the documentation as numbers of characters, and how many characters there are."""
    text = "\n".join(topics.topics.values())
    characters = sorted(set(text))
    number = {character: k for k, character in enumerate(characters)}
    return torch.tensor([number[character] for character in text]), len(characters)


def sample(text: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a batch of stretches, and the same ones a character later."""
    starts = torch.randint(len(text) - CONTEXT - 1, (BATCH,), generator=generator)
    stretches = torch.stack([text[start : start + CONTEXT + 1] for start in starts])
    return stretches[:, :-1], stretches[:, 1:]


def train(path: str, steps: int) -> None:
    """Train, with every step recorded."""
    torch.manual_seed(0)
    text, characters = load_text()
    learnt, held_out = text[: -len(text) // 10], text[-len(text) // 10 :]
    model = Writer(characters)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (1 + step) / 50))
    generator = torch.Generator().manual_seed(1)

    def loss_on(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())

    with ckptlab.Recorder(path, model, optimizer, config={"text": "pydoc"}) as recorder:
        for step in range(steps):
            loss = loss_on(sample(learnt, generator))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            warm_up.step()
            recorder.step(loss=loss)
            if step % 20 == 19:
                with torch.no_grad():
                    recorder.evaluate(loss=loss_on(sample(held_out, torch.Generator())))


def main() -> None:
    """Train, then say what happened to the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", default="runs/own-loop.zarr")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    train(options.output, options.steps)

    run = ckptlab.open_run(options.output)
    print(run)
    losses = run.analyze("evaluation")["eval_loss"].values
    print(f"loss on text it has not seen: {losses[0]:.2f} -> {losses[-1]:.2f} nats a character")
    # Embeddings are not among the kinds that are pooled unless asked for.
    kinds = "linear,embedding"
    flips = run.analyze("sign-flips", relative_to="init", by="layer", kinds=kinds)
    for layer in flips["layer"].values:
        print(f"{100 * flips.sel(layer=layer).values[-1]:5.1f} % of signs changed in {layer}")
    print(f"all of it on one page: ckptlab report {options.output} --kinds {kinds}")


if __name__ == "__main__":
    main()
