"""Oracles of the metrics of weights and recorded gradients, from whole matrices in float64."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from scipy import stats

from tests.oracles.plain import FRANKLE, oracle

Array = np.ndarray
CLOSE = "relative 1e-5"


def with_previous(w: Array) -> Array:
    """The column before each; NaN before the first."""
    return np.concatenate([np.full_like(w[:, :1], np.nan), w[:, :-1]], axis=1)


@oracle("metric", "weight-distance", CLOSE, f"{FRANKLE}, section 4")
def weight_distance(w: Array, r: Array) -> Array:
    return np.sqrt(((w - r) ** 2).sum(axis=0))


@oracle("metric", "weight-change", CLOSE, f"{FRANKLE}, section 4")
def weight_change(w: Array, _: Array) -> Array:
    return weight_distance(w, with_previous(w))


@oracle("metric", "relative-change", CLOSE, f"{FRANKLE}, section 4")
def relative_change(w: Array, r: Array) -> Array:
    return weight_distance(w, r) / np.sqrt((w**2).sum(axis=0))


@oracle("metric", "weight-magnitude", CLOSE, f"{FRANKLE}, section 4")
def weight_magnitude(w: Array, _: Array) -> Array:
    return np.abs(w).mean(axis=0)


@oracle("metric", "sign-flips", "relative 1e-12", f"{FRANKLE}, section 4")
def sign_flips(w: Array, r: Array) -> Array:
    flips = ((w > 0) & (r < 0)) | ((w < 0) & (r > 0))
    return np.where(np.isnan(r).any(axis=0), np.nan, flips.mean(axis=0))


@oracle("metric", "cosine", "absolute 1e-6", f"{FRANKLE}, section 4")
def cosine(w: Array, r: Array) -> Array:
    return (w * r).sum(axis=0) / np.sqrt((w**2).sum(axis=0) * (r**2).sum(axis=0))


@oracle("metric", "effective-std", CLOSE, f"{FRANKLE}, section 5")
def effective_std(w: Array, r: Array) -> Array:
    change = w - r
    return np.sqrt(((change - change.mean(axis=0)) ** 2).mean(axis=0))


@oracle("metric", "unchanged", "relative 1e-12", "arXiv:2602.03839")
def unchanged(w: Array, r: Array) -> Array:
    """Bits of float32; float64 of the same number and the same sign."""
    same = (w == r) & (np.signbit(w) == np.signbit(r))
    return np.where(np.isnan(r).any(axis=0), np.nan, same.mean(axis=0))


@oracle("metric", "sparsity", "relative 1e-12", f"{FRANKLE}, section 4")
def sparsity(w: Array) -> Array:
    return (w == 0).mean(axis=0)


@oracle("metric", "kurtosis", "relative 1e-6", "scipy.stats.kurtosis")
def kurtosis(w: Array) -> Array:
    return stats.kurtosis(w, axis=0)


def spectrum(matrix: Array) -> Array:
    """Singular values, increasing."""
    return scipy.linalg.svd(matrix.reshape(len(matrix), -1), compute_uv=False)[::-1]


@oracle("metric", "spectral-norm", "relative 1e-6", "numpy.linalg.norm")
def spectral_norm(matrix: Array) -> float:
    return float(np.linalg.norm(matrix.reshape(len(matrix), -1), 2))


@oracle("metric", "stable-rank", "relative 1e-6", "arXiv:math/0503442")
def stable_rank(matrix: Array) -> float:
    return float((matrix**2).sum() / spectral_norm(matrix) ** 2)


@oracle("metric", "effective-rank", "relative 1e-6", "Roy & Vetterli (2007)")
def effective_rank(matrix: Array) -> float:
    return float(np.exp(stats.entropy(spectrum(matrix))))


@oracle("metric", "condition", "relative 1e-5", "numpy.linalg.cond")
def condition(matrix: Array) -> float:
    return float(np.linalg.cond(matrix.reshape(len(matrix), -1)))


@oracle("metric", "heavy-tail", "relative 1e-5", "arXiv:0706.1062, section 3")
def heavy_tail(matrix: Array) -> tuple[float, float, float]:
    """α, the distance and the size of the tail, by trying every start of the tail."""
    values = spectrum(matrix)
    values = values[values > values[-1] * len(values) * 2.0**-23] ** 2
    best = (np.nan, np.inf, np.nan)
    for start in values[:-1]:
        tail = values[values >= start]
        alpha = 1 + len(tail) / np.log(tail / start).sum()
        below = np.arange(len(tail)) / len(tail)
        distance = np.abs(1 - (tail / start) ** (1 - alpha) - below).max()
        if distance < best[1]:
            best = (alpha, distance, len(tail))
    return best


@oracle("metric", "alignment", "absolute 1e-6", f"{FRANKLE}, section 4")
def alignment(w: Array, g: Array, steps: Array, lags: int) -> dict[str, Array]:
    """Cosines of every pair of updates, one after the other."""
    u = w - with_previous(w)

    def angle(a: Array, b: Array) -> float:
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    count = w.shape[1]
    turned = np.array([angle(u[:, k], u[:, k - 1]) if k > 1 else np.nan for k in range(count)])
    single = [k > 0 and steps[k] == steps[k - 1] + 1 for k in range(count)]
    down = np.array([angle(-u[:, k], g[:, k]) if single[k] else np.nan for k in range(count)])
    found = []
    for lag in range(1, lags + 1):
        late, early = u[:, 1 + lag :], u[:, 1 : count - lag]
        found.append((late * early).sum() / np.sqrt((late**2).sum() * (early**2).sum()))
    return {
        "update_cosine": turned,
        "gradient_cosine": down,
        "autocorrelation": np.array(found),
    }


@oracle("metric", "gradient-magnitude", CLOSE, f"{FRANKLE}, section 4")
def gradient_magnitude(g: Array) -> tuple[Array, Array]:
    """L2 norm and mean absolute value of columns of gradients."""
    return np.sqrt((g**2).sum(axis=0)), np.abs(g).mean(axis=0)


@oracle("metric", "gradient-noise", CLOSE, "arXiv:1812.06162, appendix A.1")
def gradient_noise(g: Array, window: int) -> tuple[Array, Array]:
    """|G|² and tr(Σ)/B: the unbiased sample estimates from windows of equal batches."""
    signal, variance = [], []
    for end in range(window, g.shape[1] + 1, window):
        part = g[:, end - window : end]
        spread = part.var(axis=1, ddof=1).sum()
        variance.append(spread)
        signal.append((part.mean(axis=1) ** 2).sum() - spread / window)
    return np.array(signal), np.array(variance)


@oracle("metric", "trajectories", "exact", f"{FRANKLE}, section 4")
def trajectories(w: Array, chosen: Array) -> Array:
    return w[chosen]


@oracle("metric", "subspace", "absolute 1e-5 of the largest", "arXiv:1712.09913, section 7")
def subspace(w: Array, components: int) -> tuple[Array, Array, Array]:
    """PCA of the path by a singular value decomposition: shares, projections, cosines."""
    centred = w - w.mean(axis=1, keepdims=True)
    _, values, right = np.linalg.svd(centred, full_matrices=False)
    shares = (values**2 / (values**2).sum())[:components]
    projection = (values[:, None] * right)[:components]
    projection *= np.where(projection[:, -1:] < 0, -1, 1)
    return shares, projection, projection / np.linalg.norm(centred, axis=0)


@oracle("metric", "telemetry", CLOSE, "the metrics that it joins")
def telemetry(w: Array, init: Array, final: Array) -> dict[str, Array]:
    before = with_previous(w)
    return {
        "weight_magnitude": weight_magnitude(w, w),
        "weight_change": weight_change(w, w),
        "relative_change": relative_change(w, before),
        "sign_flips_previous": sign_flips(w, before),
        "sign_flips_init": sign_flips(w, init),
        "weight_distance_init": weight_distance(w, init),
        "weight_distance_final": weight_distance(w, final),
        "cosine_init": cosine(w, init),
        "cosine_final": cosine(w, final),
    }


@oracle("metric", "timeline", CLOSE, f"{FRANKLE}, figure 2")
def timeline(w: Array, steps: Array, start: int, stop: int) -> dict[str, float]:
    """Distance and sign changes between the ends of a phase, and its mean speed."""
    a, b = (int(np.flatnonzero(steps == step)[0]) for step in (start, stop))
    moved = [np.linalg.norm(w[:, k] - w[:, k - 1]) for k in range(a + 1, b + 1)]
    return {
        "distance": float(np.linalg.norm(w[:, b] - w[:, a])),
        "sign_flips": float(sign_flips(w[:, [b]], w[:, [a]])[0]),
        # All updates count alike, however far apart steps were recorded.
        "change_per_update": float(np.sum(moved) / (stop - start)),
    }
