"""The settings that oracles and package are compared under."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One run: what is special about it, and how it is recorded."""

    what: str
    settings: tuple[str, ...]
    parent: tuple[str, int] | None = None
    masked: bool = False


MLP = ("model.name=mlp", "model.width=12", "optim.lr=0.05", "record.arrays=weights,gradients")
RESNET = ("model.name=resnet8", "model.width=4", "record.arrays=weights,gradients")
NESTEROV = ("optim.nesterov=true",)

RUNS: dict[str, Row] = {
    "dense": Row("MLP, SGD with momentum, every step", MLP),
    "nesterov": Row(
        "MLP, Nesterov without weight decay, multistep rate, a sparse schedule",
        (
            *MLP,
            *NESTEROV,
            "optim.weight_decay=0",
            "optim.schedule=multistep",
            "optim.milestones=[5]",
            "train.steps=24",
            "record.steps=0:9,12:25:6",
        ),
    ),
    "adamw": Row(
        "MLP, AdamW, cosine rate with warm-up",
        (
            *MLP,
            "optim.name=adamw",
            "optim.lr=0.01",
            "optim.weight_decay=0.1",
            "optim.schedule=cosine",
            "optim.warmup=3",
        ),
    ),
    "masked": Row("MLP, half of its weights pruned, fresh momentum", (), ("dense", 0), True),
    "branch": Row("a branch of the MLP from step 5, Nesterov", NESTEROV, ("dense", 5)),
    "resnet": Row("ResNet-8 with batch norm, every step", RESNET),
    "bf16": Row(
        "ResNet-8 in bf16, Nesterov, a logarithmic schedule",
        (*RESNET, *NESTEROV, "train.precision=bf16", "train.steps=24", "record.steps=log:4"),
    ),
    "full": Row(
        "ResNet-8, one batch of all images, no crops",
        (*RESNET, "train.batch_size=1437", "data.crop=0", "train.steps=3"),
    ),
}
"""By name; a branch gets its remaining settings from its parent."""
