"""Compare every metric that people ask for with its oracle, on ResNet-20 and on a transformer.

``python -m benchmarks.metric_oracles [FOLDER]`` records both for 300 steps (or finds them there),
and prints a table of the largest difference of each metric, and of what is tolerated; exit 1 if one
is beyond. Oracles are those of ``tests/oracles``, and float64 autograd on the module itself.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

import ckptlab
from ckptlab.builtin import rebuild
from tests.oracles import replayed, weights
from tests.oracles.networks import hessian_density
from tests.oracles.plain import PlainRun, subset

Array = np.ndarray
Row = tuple[str, float, float, str]

EXAMPLES = Path(__file__).parent.parent / "examples"
COUNT, BATCH, SEED = 64, 32, 3
SAMPLES: dict[str, Any] = {"samples": COUNT, "seed": SEED, "batch_size": BATCH}
LAST = 300
KINDS = "conv,linear,embedding"
"""All matrices, as the oracles take them."""

SPECTRA = ("spectral-norm", "stable-rank", "effective-rank", "condition")


def recorded(folder: Path, steps: int) -> dict[str, Path]:
    """Record both runs, unless they are there."""
    shared = [f"train.steps={steps}", "train.threads=1", "record.arrays=weights,gradients"]
    paths = {"ResNet-20": folder / "resnet20.zarr", "transformer": folder / "transformer.zarr"}
    if not paths["ResNet-20"].exists():
        settings = ["model.name=resnet20", "data.name=digits", "train.batch_size=64"]
        ckptlab.record_training(paths["ResNet-20"], [*settings, *shared])
    ckptlab.load_plugin(EXAMPLES / "transformer.py")
    if not paths["transformer"].exists():
        settings = ["train.batch_size=32", *shared]
        ckptlab.record_training(paths["transformer"], settings, problem="transformer")
    return paths


class Double:
    """A run's module in float64 at one step, as a function of the flat vector."""

    def __init__(self, path: Path, run: PlainRun, step: int) -> None:
        _, self.problem = rebuild(dict(run.group.attrs), str(path))
        self.module = self.problem.model().double().eval()
        for module in self.module.modules():
            if isinstance(module, _BatchNorm):
                # Statistics of each batch, as in training.
                module.train()
                module.momentum = 0.0
        state = {name: torch.from_numpy(np.array(v)) for name, v in run.state(step).items()}
        self.module.load_state_dict(state, strict=False)
        self.tensors = run.tensors
        self.at = torch.from_numpy(run.weights[:, run.column(step)].copy())
        index = subset(len(self.problem.train), COUNT, SEED)
        inputs, targets = self.problem.train.take(index)
        self.inputs = inputs.double() if inputs.is_floating_point() else inputs
        self.targets = targets
        self.batches = [slice(a, a + BATCH) for a in range(0, COUNT, BATCH)]

    def outputs(self, vector: torch.Tensor, part: slice) -> torch.Tensor:
        """Return what the module makes of some examples."""
        named = {}
        for row in self.tensors:
            size = int(np.prod(row["shape"]))
            named[row["name"]] = vector[row["offset"] : row["offset"] + size].view(row["shape"])
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            found: torch.Tensor = functional_call(self.module, named, (self.inputs[part],))
        return found

    def loss(self, vector: torch.Tensor, part: slice | None = None) -> torch.Tensor:
        """Return the mean loss of some examples, or of all."""
        parts = self.batches if part is None else [part]
        values = [self.problem.loss(self.outputs(vector, p), self.targets[p]) for p in parts]
        return torch.stack(values).mean()

    def hessian(self, places: Array) -> Array:
        """Return the Hessian of the mean loss over some weights, row by row."""
        at = self.at.clone().requires_grad_()
        (slope,) = torch.autograd.grad(self.loss(at), at, create_graph=True)
        rows = [torch.autograd.grad(slope[int(i)], at, retain_graph=True)[0] for i in places]
        return torch.stack(rows).numpy()[:, places]

    def gauss_newton(self, places: Array) -> Array:
        """Σ Jᵀ (∇²ℓ) J by differences of the loss's slope along each J e_i, in float64."""
        total = np.zeros((len(places), len(places)))
        for part in self.batches:
            at = self.at.clone()
            columns = []
            for i in places:
                unit = torch.zeros_like(at)
                unit[int(i)] = 1e-6
                with torch.no_grad():
                    move = self.outputs(at + unit, part) - self.outputs(at - unit, part)
                columns.append(move / 2e-6)
            ends = self.outputs(at, part).detach()

            def slope(outputs: torch.Tensor, part: slice = part) -> torch.Tensor:
                outputs = outputs.detach().requires_grad_()
                value = self.problem.loss(outputs, self.targets[part])
                return torch.autograd.grad(value, outputs)[0]

            bent = [(slope(ends + 1e-5 * c) - slope(ends - 1e-5 * c)) / 2e-5 for c in columns]
            moved = torch.stack([c.flatten() for c in columns])
            total += (moved @ torch.stack([b.flatten() for b in bent]).T).numpy()
        return (total + total.T) / 2 / len(self.batches)


def difference(found: Any, wanted: Any, *, absolute: bool = False) -> float:
    """Return the largest difference, relative to the larger of the two unless absolute."""
    found, wanted = np.asarray(found, float), np.asarray(wanted, float)
    if (np.isnan(found) != np.isnan(wanted)).any():
        return math.inf
    same = found == wanted
    gap = np.abs(found - wanted)
    scale = 1.0 if absolute else np.maximum(np.abs(found), np.abs(wanted))
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.nanmax(np.where(same | np.isnan(wanted), 0, gap / scale)))


def of_weights(run: PlainRun, package: Any) -> Iterator[Row]:
    """Metrics of weights at every step, of matrices at every 30th."""
    w = run.weights[run.selected]
    before = weights.with_previous(w)
    yield (
        "unchanged",
        difference(package.analyze("unchanged", kinds=KINDS), weights.unchanged(w, before)),
        1e-12,
        "",
    )
    yield (
        "sparsity",
        difference(package.analyze("sparsity", kinds=KINDS), weights.sparsity(w)),
        1e-12,
        "",
    )
    yield (
        "kurtosis",
        difference(package.analyze("kurtosis", kinds=KINDS), weights.kurtosis(w), absolute=True),
        1e-6,
        "absolute",
    )
    matrices = [t for t in run.tensors if len(t["shape"]) > 1]
    steps = run.steps[::30]
    for name in (*SPECTRA, "heavy-tail"):
        found = package.analyze(name, steps=",".join(map(str, steps)), kinds=KINDS)
        worst = 0.0
        for row in matrices:
            for step in steps:
                at = {"tensor": row["name"], "step": step}
                one = run.weights[:, run.column(int(step))]
                matrix = one[row["offset"] : row["offset"] + int(np.prod(row["shape"]))]
                matrix = matrix.reshape(row["shape"])
                if name == "heavy-tail":
                    got = [float(found[key].sel(at)) for key in ("alpha", "distance", "tail_size")]
                    wanted: Any = weights.heavy_tail(matrix)
                else:
                    got = float(found.sel(at))
                    wanted = getattr(weights, name.replace("-", "_"))(matrix)
                worst = max(worst, difference(got, wanted))
        yield name, worst, 1e-5, f"{len(steps)} steps"
    gradients = run["gradients"].astype(np.float64)[run.selected]
    wanted = weights.alignment(w, gradients, run.steps, 5)
    found = package.analyze("alignment", lags=5, kinds=KINDS)
    worst = max(difference(found[key], wanted[key], absolute=True) for key in wanted)
    yield "alignment", worst, 1e-6, "absolute, 5 lags"


def of_curvature(double: Double, run: PlainRun, package: Any) -> Iterator[Row]:
    """Curvature of 300 drawn weights at the last step, against dense matrices."""
    size = run.weights.shape[0]
    places = np.sort(np.random.default_rng(5).permutation(size)[:300])
    keep = np.zeros(size, bool)
    keep[places] = True
    options = {"steps": int(run.steps[-1]), "mask": keep, **SAMPLES}
    matrix = double.hessian(places)
    values = np.linalg.eigvalsh(matrix)
    scale = float(np.abs(values).max())
    spectrum = package.analyze("hessian-spectrum", eigenvalues=5, **options)
    gap = np.abs(spectrum["eigenvalues"].values[0] - values[::-1][:5]).max() / scale
    yield "hessian-spectrum", float(gap), 1e-3, "of the largest; 300 weights"
    trace = package.analyze("hessian-trace", products=90, **options).item()
    # What is left out is random: relative to Σ|λ|, since a trace may be near 0.
    gap = abs(trace - values.sum()) / np.abs(values).sum()
    yield "hessian-trace", float(gap), 0.05, "of Σ|λ|; 90 products for 300 weights"
    exact = package.analyze("hessian-trace", products=600, **options).item()
    yield "hessian-trace", abs(exact - values.sum()) / np.abs(values).sum(), 1e-4, "exact"
    density = package.analyze("hessian-density", iterations=60, probes=10, **options)
    nodes, shares = density["node"].values[0], density["weight"].values[0]
    ends = np.abs(np.array([nodes.min(), nodes.max()]) - values[[0, -1]]).max() / scale
    yield "hessian-density", float(ends), 1e-3, "extreme nodes, of the largest"
    grid = density["value"].values[0]
    cumulative = (shares[..., None] * (nodes[..., None] <= grid)).sum(1).mean(0)
    near = 4 * (grid[1] - grid[0])
    low, high = (hessian_density(matrix, grid + sign * near) for sign in (-1, 1))
    worst = max(float((low - cumulative).max()), float((cumulative - high).max()), 0.0)
    yield "hessian-density", worst, 0.08, "share of eigenvalues up to λ; 10 probes"
    wanted = np.linalg.eigvalsh(double.gauss_newton(places))[::-1][:5]
    found = package.analyze("ggn-spectrum", eigenvalues=5, **options)["eigenvalues"].values[0]
    yield "ggn-spectrum", float(np.abs(found - wanted).max() / wanted[0]), 1e-3, "of the largest"


def of_replays(double: Double, path: Path, run: PlainRun, package: Any) -> Iterator[Row]:
    """Representations, the plane of the path, and one chain of samples."""
    last = int(run.steps[-1])
    found = package.analyze(
        "representation", steps="30", samples=COUNT, seed=SEED, batch_norm="train"
    )
    features = [layer_outputs(Double(path, run, step)) for step in (30, last)]
    wanted = [
        replayed.representation(features[0][name], features[1][name])
        for name in found["layer"].values
    ]
    yield "representation", difference(found[:, 0], wanted, absolute=True), 1e-4, "absolute"
    surface = package.analyze("landscape", steps="0::10", grid=3, **SAMPLES)
    columns = [run.column(int(step)) for step in surface["step"].values]
    directions, places = replayed.landscape(run.weights[:, columns])
    sign = np.sign(places[0]) * np.sign([surface["path_x"][0], surface["path_y"][0]])
    worst = 0.0
    for i in range(3):
        for j in range(3):
            point = np.array([surface["x"].values[j], surface["y"].values[i]]) * sign
            with torch.no_grad():
                value = double.loss(double.at + torch.from_numpy(directions @ point))
            worst = max(worst, difference(surface["loss"][i, j], float(value)))
    yield "landscape", worst, 1e-3, "9 points of the plane"
    settings = {"step_size": 1e-6, "localization": 100.0}
    sampled = package.analyze(
        "learning-coefficient", steps=last, chains=1, burn_in=10, length=40, **settings, **SAMPLES
    )
    seed = int(np.random.SeedSequence([SEED, last, 0]).generate_state(1)[0])
    chain = Chain(double)
    pairs = [(part, np.zeros(BATCH)) for part in double.batches]
    every = np.ones(len(double.at), bool)
    wanted = replayed.learning_coefficient(chain, pairs, every, seed, 10, 40, **settings)  # type: ignore[arg-type]
    yield (
        "learning-coefficient",
        difference(sampled["by_chain"][0, 0], wanted),
        2e-2,
        "a chain of 50",
    )


class Chain:
    """What the oracle of the learning coefficient asks of a network."""

    def __init__(self, double: Double) -> None:
        self.double, self.at = double, double.at

    def loss(self, vector: torch.Tensor, part: Any, _: Array, __: int) -> float:
        """Return the loss of a batch."""
        with torch.no_grad():
            return float(self.double.loss(vector, part))

    def gradient(self, part: Any, _: Array, __: int, vector: torch.Tensor) -> Array:
        """Return the gradient of the loss of a batch."""
        at = vector.clone().requires_grad_()
        (found,) = torch.autograd.grad(self.double.loss(at, part), at)
        return found.numpy()


def layer_outputs(double: Double) -> dict[str, Array]:
    """Outputs of every module for all examples at once, float64, a row for each example."""
    found: dict[str, Array] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _, __, out: found.__setitem__(name, out.detach().reshape(COUNT, -1).numpy())

    hooks = [m.register_forward_hook(keep(n)) for n, m in double.module.named_modules() if n]
    with torch.no_grad():
        double.outputs(double.at, slice(0, COUNT))
    for hook in hooks:
        hook.remove()
    return found


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", help="where the runs are, or are recorded")
    parser.add_argument("--run", help="one of the two alone")
    parser.add_argument("--steps", type=int, default=LAST)
    given = parser.parse_args()
    torch.set_num_threads(1)
    worst = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(given.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print("| metric | run | largest difference | tolerance | of |\n|---|---|---|---|---|")
        for name, path in recorded(folder, given.steps).items():
            if given.run not in (None, name):
                continue
            run, package = PlainRun(path), ckptlab.open_run(path)
            double = Double(path, run, int(run.steps[-1]))
            rows = itertools.chain(
                of_weights(run, package),
                of_curvature(double, run, package),
                of_replays(double, path, run, package),
            )
            for metric, gap, tolerance, what in rows:
                print(
                    f"| `{metric}` | {name} | {gap:.1e} | {tolerance:g} | {what or 'relative'} |",
                    flush=True,
                )
                worst = max(worst, gap / tolerance)
    print(f"\nlargest difference: {worst:.2g} of its tolerance", flush=True)
    return int(not worst <= 1)


if __name__ == "__main__":
    sys.exit(main())
