"""Tell which part of a network a weight belongs to from its name: attention, MLP or head.

Kinds say what a tensor does and are stored; parts say where it stands and are derived, so that
every run has them.
"""

from __future__ import annotations

import re

PARTS: tuple[str, ...] = ("attention", "mlp", "head")
"""Parts of a network that `kinds` selects too: convolutions and linear maps among them."""

_PARAMETRIZED = re.compile(r"\.?parametrizations\.(\w+)\.(?:original\d*|\d+\.\w+)$")
_ATTENTION = re.compile(r"attn|attention|^att_proj$|^qkv$|^[qkvo]_proj$|^to_[qkv]$")
_MLP = re.compile(r"mlp|ffn|feed_?forward|^ff_|expert|^moe$|^intermediate$|_moe$|^linear[12]$")
_HEADS = re.compile(r"^(lm_head|heads?|embed_out|unembed|classifier|score|cls|fc|output|ff_out)$")


def split_name(name: str) -> tuple[str, str]:
    """Split a tensor's name into its module and its own; parametrizations count to the module.

    ``conv.parametrizations.weight.original1`` is the ``weight`` of ``conv``.
    """
    if found := _PARAMETRIZED.search(name):
        return name[: found.start()], found[1]
    module, _, own = name.rpartition(".")
    return module, own


def part_of(name: str) -> str:
    """Return the part a weight belongs to, one of `PARTS`; empty where its name tells none."""
    module, own = split_name(name)
    words = [*module.split("."), own] if module else [own]
    if any(_ATTENTION.search(word) for word in words):
        return "attention"
    numbers = [i for i, word in enumerate(words) if word.rpartition("_")[2].isdigit()]
    # Only before the first numbered block, or without one, does "output" end the network.
    if any(_HEADS.match(word) for word in words[: numbers[0] if numbers else None]):
        return "head"
    # BERT's second map of an MLP is the `output` of a block.
    inner = numbers and "output" in words[numbers[0] :]
    return "mlp" if inner or any(_MLP.search(word) for word in words) else ""
