"""Small runs written through StoreWriter, and what they should hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.block import Anchor, Block, Evaluation
from ckptlab.store.format.layout import Buffer, Layout, Tensor
from ckptlab.store.write.writer import StoreWriter

SPECIAL = np.array(
    [
        0x7FC00001,  # a NaN with a payload
        0xFFC12345,  # a negative one
        0x80000000,  # -0.0
        0x7F800000,  # inf
        0xFF800000,  # -inf
        0x00000001,  # the smallest denormal
        0x807FFFFF,  # the largest, negative
        0x7F7FFFFF,  # the largest number
    ],
    np.uint32,
)


def layout_of(*sizes: int, buffers: bool = True) -> Layout:
    """Tensors of these sizes, and buffers of two types."""
    tensors, offset = [], 0
    for index, size in enumerate(sizes):
        kind = ("linear", "bias", "conv")[index % 3]
        name = f"layer{index}.{'bias' if kind == 'bias' else 'weight'}"
        tensors.append(
            Tensor(name=name, shape=(size,), offset=offset, kind=kind, prunable=kind != "bias")
        )
        offset += size
    rows = (
        Buffer(name="norm.mean", shape=(3,), offset=0),
        Buffer(name="norm.count", shape=(), offset=0, dtype="int64", array="buffers_int64"),
    )
    return Layout(tuple(tensors), rows if buffers else ())


def trajectory(steps: int, parameters: int, seed: int = 0) -> np.ndarray:
    """Weights that move like a training's, shape (steps, param), with every special value in."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(1, parameters)) + np.cumsum(
        rng.normal(scale=1e-3, size=(steps, parameters)), axis=0
    )
    weights = weights.astype(np.float32)
    count = min(4 * len(SPECIAL), weights.size)
    places = rng.choice(weights.size, count, replace=False)
    weights.view(np.uint32).reshape(-1)[places] = np.resize(SPECIAL, count)
    return weights


def block_of(
    weights: np.ndarray, start: int, stop: int, *, layout: Layout, anchor: bool = True
) -> Block:
    """Steps [start, stop) of a trajectory, where step k is the number 10 * k."""
    count, tensors = stop - start, len(layout.tensors)
    numbers = np.arange(start, stop, dtype=np.int64) * 10
    rows: dict[str, np.ndarray] = {"weights": weights[start:stop]}
    if layout.buffers:
        rows["buffers"] = np.stack([numbers, numbers + 1, numbers + 2], 1).astype(np.float32)
        rows["buffers_int64"] = numbers[:, None] + 2**40
    return Block(
        start=start,
        rows=rows,
        series={
            "step": numbers,
            "loss": numbers.astype(np.float32) / 7,
            "lr": np.full(count, 0.1),
            "skipped": numbers % 20 == 0,
            "gradient_norm": np.arange(tensors, dtype=np.float32)[:, None] + numbers[None] / 3,
        },
        anchor=anchor_of(weights, stop - 1) if anchor else None,
    )


def anchor_of(weights: np.ndarray, position: int) -> Anchor:
    """An anchor with one state, in a byte row as the recorder writes it."""
    import json

    description = json.dumps({"present": {"momentum": ["layer0.weight"]}, "groups": []})
    header = json.dumps({"__metadata__": {"ckptlab": description}}).encode()
    row = len(header).to_bytes(8, "little") + header
    return Anchor(step=position * 10, states={"momentum": -weights[position]}, row=row)


def write_run(
    path: str | Path,
    weights: np.ndarray,
    layout: Layout,
    *,
    block: int = 8,
    codec: str = "dense",
    state: str | None = "complete",
    evaluations: tuple[int, ...] = (),
) -> None:
    """Write a trajectory block by block; `state` None leaves it as a killed writer would."""
    writer = StoreWriter.create(
        open_storage(path, fsync=False),
        layout,
        block=block,
        codec=codec,
        attributes={"config": {}},
        capacity=4,
    )
    for start in range(0, len(weights), block):
        stop = min(start + block, len(weights))
        part = block_of(weights, start, stop, layout=layout)
        part.evaluations = [
            Evaluation(step=s * 10, loss=s / 3, accuracy=s / 100)
            for s in evaluations
            if start <= s < stop
        ]
        writer.write_block(part)
    if state is None:
        writer.abandon()
    else:
        writer.finish(state)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equality that tells NaN payloads and signs of zero apart."""
    return a.shape == b.shape and np.array_equal(
        np.ascontiguousarray(a).view(np.uint8), np.ascontiguousarray(b).view(np.uint8)
    )
