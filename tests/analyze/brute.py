"""Every metric by brute force in float64, from the whole matrix of weights."""

from __future__ import annotations

import numpy as np


def reference_columns(weights: np.ndarray, steps: np.ndarray, relative_to: str) -> np.ndarray:
    """The reference of every step, shape of the weights; NaN where there is none."""
    w = weights.astype(np.float64)
    if relative_to == "previous":
        return np.concatenate([np.full_like(w[:, :1], np.nan), w[:, :-1]], axis=1)
    column = {"init": 0, "final": len(steps) - 1}.get(relative_to)
    if column is None:
        column = list(steps).index(int(relative_to))
    return np.broadcast_to(w[:, [column]], w.shape)


def distance(w: np.ndarray, r: np.ndarray) -> np.ndarray:
    # Of no weight at all there is no distance.
    return np.sqrt(((w - r) ** 2).sum(axis=0)) if len(w) else np.full(w.shape[1], np.nan)


def relative_change(w: np.ndarray, r: np.ndarray) -> np.ndarray:
    norm = np.sqrt((w**2).sum(axis=0))
    return distance(w, r) / np.where(norm > 0, norm, np.nan)


def magnitude(w: np.ndarray, r: np.ndarray) -> np.ndarray:
    return np.abs(w).mean(axis=0)


def cosine(w: np.ndarray, r: np.ndarray) -> np.ndarray:
    return (w * r).sum(axis=0) / np.sqrt((w**2).sum(axis=0)) / np.sqrt((r**2).sum(axis=0))


def effective_std(w: np.ndarray, r: np.ndarray) -> np.ndarray:
    return (w - r).std(axis=0)


def sign_flips(w: np.ndarray, r: np.ndarray) -> np.ndarray:
    flips = ((np.sign(w) * np.sign(r)) < 0).sum(axis=0) / len(w)
    return np.where(np.isnan(w).any(axis=0) | np.isnan(r).any(axis=0), np.nan, flips)


METRICS = {
    "weight-distance": (distance, "init"),
    "weight-change": (distance, "previous"),
    "relative-change": (relative_change, "previous"),
    "weight-magnitude": (magnitude, "init"),
    "sign-flips": (sign_flips, "previous"),
    "cosine": (cosine, "init"),
    "effective-std": (effective_std, "init"),
}
