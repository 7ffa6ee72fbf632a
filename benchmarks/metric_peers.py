"""Time and memory of each metric on ResNet-20 at 50 steps, beside a peer that computes the same.

``python -m benchmarks.metric_peers RUN.zarr [--steps 50] [--rounds 3] [--only NAME]`` runs every
variant in a process of its own, interleaved, and prints medians, the ratio to the peer and the peak
of memory. `RUN.zarr` is a run of the built-in trainer with gradients, as `metric_oracles` records
it. Peers that are not installed are left out: ``pip install weightwatcher pyhessian devinterp
hessian-eigenthings loss-landscapes``. A peer's loop is what its user writes: states are read from
the xarray, one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import xarray as xr

import ckptlab
from benchmarks.measure import interleave
from ckptlab.builtin import rebuild

COUNT, BATCH, PRODUCTS, ITERATIONS, LENGTH = 128, 128, 30, 30, 40
SAMPLES: dict[str, Any] = {"samples": COUNT, "batch_size": BATCH, "batch_norm": "eval"}


class Loop:
    """What a plain loop works on: the dataset, some steps, the model and a batch."""

    def __init__(self, path: str, steps: int) -> None:
        self.run = ckptlab.open_run(path)
        self.data = xr.open_zarr(path)
        recorded = self.data["step"].values
        self.columns = np.linspace(0, len(recorded) - 1, steps).round().astype(int)
        self.text = ",".join(str(recorded[c]) for c in self.columns)
        self.path = path
        self.tensors = self.data.attrs["tensors"]
        chosen = [t for t in self.tensors if len(t["shape"]) > 1]
        self.matrices = [slice(t["offset"], t["offset"] + math.prod(t["shape"])) for t in chosen]
        self.shapes = [tuple(t["shape"]) for t in chosen]

    def weights(self, column: int) -> np.ndarray:
        """Return the matrices' weights at a step, as one vector."""
        vector = self.data["weights"].isel(step=int(column)).values
        return np.concatenate([vector[part] for part in self.matrices])

    def each_matrix(self) -> Iterator[np.ndarray]:
        """Yield every matrix at every step."""
        for column in self.columns:
            vector = self.data["weights"].isel(step=int(column)).values
            for part, shape in zip(self.matrices, self.shapes, strict=True):
                yield vector[part].reshape(shape[0], -1)

    def models(self) -> Iterator[tuple[Any, Any, tuple[Any, Any]]]:
        """Yield the model at every step, its loss and a batch."""
        _, problem = rebuild(dict(self.data.attrs), self.path)
        model = problem.model().eval()
        index = np.sort(np.random.default_rng(0).permutation(len(problem.train))[:COUNT])
        batch = tuple(problem.train.take(index))
        for column in self.columns:
            step = int(self.data["step"].values[column])
            model.load_state_dict(self.run.state_dict(step), strict=False)
            yield model, problem.loss, batch  # type: ignore[misc]


def ours(name: str, **options: Any) -> Callable[[Loop], Any]:
    """Return what runs a metric of the package."""
    return lambda loop: loop.run.analyze(name, steps=loop.text, **options)


def unchanged(loop: Loop) -> None:
    """NumPy: bits of each step against the one before."""
    for column in loop.columns[1:]:
        now, before = loop.weights(column), loop.weights(column - 1)
        (now.view(np.uint32) == before.view(np.uint32)).mean()


def sparsity(loop: Loop) -> None:
    """NumPy."""
    for column in loop.columns:
        (loop.weights(column) == 0).mean()


def kurtosis(loop: Loop) -> None:
    """SciPy."""
    from scipy import stats

    for column in loop.columns:
        stats.kurtosis(loop.weights(column).astype(float))


def singular(loop: Loop) -> None:
    """NumPy's SVD."""
    for matrix in loop.each_matrix():
        values = np.linalg.svd(matrix, compute_uv=False)
        (values**2).sum() / values[0] ** 2


def weightwatcher(loop: Loop) -> None:
    """WeightWatcher, whose log and warnings are not shown."""
    import weightwatcher as ww

    with contextlib.redirect_stdout(io.StringIO()):
        for model, _, _ in loop.models():
            ww.WeightWatcher(model=model).analyze(min_evals=3, plot=False)


def alignment(loop: Loop) -> None:
    """NumPy: cosines only, no autocorrelation."""
    for column in loop.columns[2:]:
        now, before, first = (loop.weights(column - k).astype(float) for k in range(3))
        u, v = now - before, before - first
        u @ v / np.sqrt((u @ u) * (v @ v))
        gradient = loop.data["gradients"].isel(step=int(column)).values.astype(float)
        g = np.concatenate([gradient[part] for part in loop.matrices])
        -(u @ g) / np.sqrt((u @ u) * (g @ g))


def pyhessian(what: str) -> Callable[[Loop], None]:
    """PyHessian on one batch, as many products."""

    def run(loop: Loop) -> None:
        from pyhessian import hessian

        # PyHessian 0.1 calls torch.eig, which torch no longer has.
        torch.eig = _eig  # type: ignore[attr-defined]
        for model, loss, batch in loop.models():
            computed = hessian(model, loss, data=batch, cuda=False)
            if what == "trace":
                # With a tolerance of 0 it stops at the first estimate that is negative.
                computed.trace(maxIter=PRODUCTS, tol=-math.inf)
            else:
                computed.density(iter=ITERATIONS, n_v=1)

    return run


def _eig(matrix: Any, eigenvectors: bool = True) -> Any:
    del eigenvectors
    values, vectors = torch.linalg.eigh(matrix)
    return torch.stack([values, 0 * values], 1), vectors


def eigenthings(loop: Loop) -> None:
    """hessian-eigenthings: the largest eigenvalues of the GGN by Lanczos."""
    from hessian_eigenthings import (
        GGNOperator,
        lanczos,
        supervised_forward,
        supervised_loss_of_output,
    )

    for model, loss, batch in loop.models():
        operator = GGNOperator(model, [batch], supervised_forward, supervised_loss_of_output(loss))
        lanczos(operator, k=3, max_iter=40, tol=1e-6, which="LA")


def features(loop: Loop) -> None:
    """PyTorch hooks and NumPy: CKA by products of features."""
    held: dict[str, np.ndarray] = {}
    last: dict[str, np.ndarray] = {}
    for model, _, (inputs, _) in [*loop.models()][-1:]:
        last = _features(model, inputs)
    for model, _, (inputs, _) in loop.models():
        held = _features(model, inputs)
        for name, x in held.items():
            y = last[name]
            np.linalg.norm(x @ x.T * (y @ y.T)) / np.linalg.norm(x @ x.T) / np.linalg.norm(y @ y.T)


def _features(model: Any, inputs: Any) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _, __, out: found.__setitem__(name, out.detach().flatten(1).numpy())

    modules = [
        (n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)
    ]
    hooks = [module.register_forward_hook(keep(name)) for name, module in modules]
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    return {name: x - x.mean(0) for name, x in found.items()}


def ends(loop: Loop) -> None:
    """The line between the first and the last step, without the path beside it."""
    first, *_, last = loop.text.split(",")
    options = {"through": f"{first},{last}", "steps": f"{first},{last}", "grid": 50}
    loop.run.analyze("landscape", **options, samples=COUNT, batch_size=COUNT)


def line(loop: Loop) -> None:
    """loss-landscapes: the line between the first and the last step."""
    import copy

    import loss_landscapes
    from loss_landscapes.metrics import Loss

    models = [
        copy.deepcopy(model)
        for k, (model, _, _) in enumerate(loop.models())
        if k in (0, len(loop.columns) - 1)
    ]
    _, loss, (inputs, targets) = next(loop.models())
    for end in models:
        end.train()
    loss_landscapes.linear_interpolation(*models, Loss(loss, inputs, targets), 50)


def devinterp(loop: Loop) -> None:
    """SGLD of devinterp, one chain from each step."""
    from devinterp.optim.sgld import SGLD

    for model, loss, (inputs, targets) in loop.models():
        nbeta = COUNT / math.log(COUNT)
        optimizer = SGLD(model.parameters(), lr=1e-6, localization=100.0, nbeta=nbeta)
        for _ in range(LENGTH):
            optimizer.zero_grad()
            value = loss(model(inputs), targets)
            value.backward()
            optimizer.step()
            value.item()


ONE_CHAIN = {"chains": 1, "burn_in": 0, "length": LENGTH, "step_size": 1e-6}
CASES: dict[str, tuple[Callable[[Loop], Any], str, Callable[[Loop], Any]]] = {
    "unchanged": (ours("unchanged"), "numpy", unchanged),
    "sparsity": (ours("sparsity"), "numpy", sparsity),
    "kurtosis": (ours("kurtosis"), "scipy", kurtosis),
    "spectral-norm": (ours("spectral-norm"), "numpy", singular),
    "stable-rank": (ours("stable-rank"), "numpy", singular),
    "effective-rank": (ours("effective-rank"), "numpy", singular),
    "condition": (ours("condition"), "numpy", singular),
    "heavy-tail": (ours("heavy-tail"), "weightwatcher", weightwatcher),
    "alignment": (ours("alignment", lags=1), "numpy", alignment),
    "hessian-trace": (
        ours("hessian-trace", products=PRODUCTS, **SAMPLES),
        "pyhessian",
        pyhessian("trace"),
    ),
    "hessian-density": (
        ours("hessian-density", iterations=ITERATIONS, **SAMPLES),
        "pyhessian",
        pyhessian("density"),
    ),
    "ggn-spectrum": (
        ours("ggn-spectrum", eigenvalues=3, **SAMPLES),
        "hessian-eigenthings",
        eigenthings,
    ),
    "representation": (ours("representation", samples=COUNT), "torch hooks", features),
    "landscape": (
        ends,
        "loss-landscapes",
        line,
    ),
    "learning-coefficient": (
        ours("learning-coefficient", **ONE_CHAIN, **SAMPLES),
        "devinterp",
        devinterp,
    ),
}


def measured(case: str, variant: int, path: str, steps: int) -> dict[str, float]:
    """Run one variant in this process, warm: at two steps first, then timed at all."""
    import warnings

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    function = CASES[case][0 if variant == 0 else 2]
    function(Loop(path, 3))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    function(Loop(path, steps))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "MiB": peak / 1024, "more": (peak - before) / 1024}


def child(case: str, variant: int, given: argparse.Namespace, peaks: dict[int, float]) -> float:
    """Run a variant in a fresh process; returns seconds and keeps the peak of memory."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.metric_peers",
        given.run,
        "--steps",
        str(given.steps),
    ]
    command += ["--one", case, "--variant", str(variant)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    found = json.loads(done.stdout.strip().splitlines()[-1])
    peaks[variant] = max(peaks.get(variant, 0), found["MiB"])
    return float(found["seconds"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="names of metrics, comma-separated")
    parser.add_argument("--one", choices=CASES)
    parser.add_argument("--variant", type=int, default=0)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(given.one, given.variant, given.run, given.steps)))
        return
    rows = []
    for case in given.only.split(",") if given.only else CASES:
        peer, peaks = CASES[case][1], {}
        variants = {
            name: (lambda k=k, case=case, peaks=peaks: child(case, k, given, peaks))
            for k, name in enumerate(("ckptlab", peer))
        }
        try:
            found = interleave(variants, given.rounds, peer)
        except RuntimeError as error:
            print(f"  {case}: left out, {error}", flush=True)
            continue
        one, other = found["ckptlab"], found[peer]
        low, high = one["quartiles"]
        rows.append(
            f"| `{case}` | {peer} | {one['seconds']:.2f} s | {other['seconds']:.2f} s | "
            f"x{one['ratio']:.2f} ({low:.2f} to {high:.2f}) | {peaks[0]:.0f} | {peaks[1]:.0f} |"
        )
    print("\n| metric | peer | ckptlab | peer | time of the peer's | MiB | peer's |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
