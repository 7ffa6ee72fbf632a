"""Criteria that look at the network against their oracles."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ckptlab
from ckptlab.experiments.jobs.job import Pruning, TrainJob
from ckptlab.experiments.operations.pruning import prunable, prune
from ckptlab.experiments.operations.saliency import Saliency
from ckptlab.experiments.plans.imp import Pruner, plan_imp
from ckptlab.store.format.layout import Layout
from ckptlab.train.config import load_config
from tests.experiments.small import Bench
from tests.oracles import saliency as oracles

SIZES = (6, 7, 5, 3)


def network(*, bias: bool = True) -> nn.Module:
    layers = [nn.Linear(a, b, bias=bias) for a, b in itertools.pairwise(SIZES)]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


def points() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(48, SIZES[0], generator=generator)
    return x, torch.randint(0, SIZES[-1], (48,), generator=generator)


def problem(bias: bool = True) -> ckptlab.Problem:
    """Classify random points."""
    return ckptlab.Problem(
        model=lambda: network(bias=bias),
        loss=nn.functional.cross_entropy,
        train=points(),
        test=points(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    )


def without_biases() -> ckptlab.Problem:
    return problem(bias=False)


@pytest.fixture(scope="module", params=["problem", "without_biases"])
def dense(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saliency") / f"{request.param}.zarr"
    settings = [f"problem.name={__name__}:{request.param}", "train.steps=20", "train.threads=1"]
    settings += ["train.batch_size=16", "record.fsync=false", "train.device=cpu"]
    ckptlab.record_training(path, settings)
    return path


def of(path: Path) -> ckptlab.Problem:
    return globals()[path.stem]()


def live(path: Path, step: int, keep: np.ndarray) -> nn.Module:
    model = of(path).model()
    model.load_state_dict(ckptlab.open_run(path).state_dict(step))
    with torch.no_grad():
        vector = nn.utils.parameters_to_vector(model.parameters()) * torch.from_numpy(keep)
        nn.utils.vector_to_parameters(vector, model.parameters())
    return model


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_gradient_scores(dense: Path, share: float) -> None:
    stored = ckptlab.open_run(dense).stored
    flags = prunable(stored.layout)
    keep = (np.random.default_rng(0).random(len(flags)) < share) | ~flags
    found = Saliency(stored, 4, of(dense), load_config(overrides=["train.batch_size=16"]))
    weights = stored.snapshot(4) * keep
    x, y = points()
    for oracle, vector in (
        (oracles.snip, np.abs(weights * found.gradient(keep))),
        (oracles.grasp, weights * found.hessian_gradient(keep)),
    ):
        wanted = oracle(live(dense, 4, keep), nn.functional.cross_entropy, x.double(), y)
        np.testing.assert_allclose(vector, wanted, rtol=1e-4, atol=1e-6 * np.abs(wanted).max())


@pytest.fixture(scope="module")
def bench(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    names = ["snip", "grasp", "synflow", "sign-preserving", "learning-rate-rewinding"]
    found = Bench(str(dense), tmp_path_factory.mktemp("criteria"))
    pruner = Pruner(levels=2, fraction=0.3)
    plan_imp(found.plan, found.parents, rewind=[4], pruner=pruner, pruning=names)
    found.do_all()
    return found


def runs_of(bench: Bench, name: str) -> list[ckptlab.Run]:
    cells = [cell for cell in bench.plan.cells if cell.at["pruning"] == name and cell.at["level"]]
    return [ckptlab.open_run(bench.open(cell.run).path) for cell in cells]


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_masks_at_the_rewind_step(bench: Bench, name: str) -> None:
    path, flags = Path(bench.stored.path), prunable(bench.stored.layout)
    whole, (x, y) = np.ones(len(flags), bool), points()
    model = live(path, 4, whole)
    scores = getattr(oracles, name)(model, nn.functional.cross_entropy, x.double(), y)
    count = int(flags.sum())
    for run in runs_of(bench, name):
        count -= round(0.3 * count)
        wanted = oracles.lowest_gone(scores, whole, flags, count)
        np.testing.assert_array_equal(run.stored.mask(), wanted)
        np.testing.assert_array_equal(run.snapshot(4), bench.stored.snapshot(4) * wanted)


@pytest.mark.parametrize("dense", ["without_biases"], indirect=True)  # the oracle has none
def test_synaptic_flow_in_a_hundred_rounds(bench: Bench) -> None:
    run = ckptlab.open_run(bench.stored.path)
    state = run.state_dict(4)
    layers = [state[f"{i}.weight"].double().numpy() for i in (0, 2, 4)]
    (first, _) = runs_of(bench, "synflow")
    wanted = oracles.synflow(layers, 0.3, 100)
    np.testing.assert_array_equal(first.stored.mask(), np.concatenate([k.ravel() for k in wanted]))


def test_signs_are_preserved_first(bench: Bench) -> None:
    flags = prunable(bench.stored.layout)
    keep, before = np.ones(len(flags), bool), ckptlab.open_run(bench.stored.path)
    for run in runs_of(bench, "sign-preserving"):
        steps = before.steps
        scores = oracles.sign_preserving(before.snapshot(steps[-1]), before.snapshot(steps[0]))
        alive = int((keep & flags).sum())
        keep = oracles.lowest_gone(scores, keep, flags, alive - round(0.3 * alive))
        np.testing.assert_array_equal(run.stored.mask(), keep)
        before = run


def test_only_the_learning_rate_is_rewound(bench: Bench) -> None:
    before = ckptlab.open_run(bench.stored.path)
    for run in runs_of(bench, "learning-rate-rewinding"):
        assert (run.steps[0], run.steps[-1]) == (4, 20)
        start = oracles.rate_rewound(before.snapshot(before.steps[-1]), run.stored.mask())
        np.testing.assert_array_equal(run.snapshot(4), start)
        before = run


def table_of(layout: Layout) -> list[dict[str, object]]:
    return [
        {"name": t.name, "shape": t.shape, "offset": t.offset, "prunable": t.prunable}
        for t in layout.tensors
    ]


@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_whole_filters(dense: Path, tmp_path: Path, fraction: float) -> None:
    bench = Bench(str(dense), tmp_path)
    layout, last = bench.stored.layout, bench.stored.snapshot(20)
    mask = Pruning(run=bench.parent.run, fraction=fraction, structure="filter")
    job = TrainJob(config=bench.parent.branch(4), source=bench.parent.source(4), mask=mask)
    wanted = oracles.filters(last, table_of(layout), fraction)
    np.testing.assert_array_equal(bench.do(job).mask(), wanted)
    for row in layout.tensors:
        if row.prunable:
            rows = wanted[row.stretch].reshape(row.shape[0], -1)
            assert (rows.all(1) | ~rows.any(1)).all()


def test_filters_are_pruned_level_by_level(dense: Path) -> None:
    layout = ckptlab.open_run(dense).layout
    weights = np.random.default_rng(0).normal(size=layout.parameters)
    mask = np.ones(layout.parameters, bool)
    for left in (9, 7, 5):
        mask = prune(lambda at, _: np.abs(weights[at]), mask, layout, 0.25, structure="filter")
        rows = [mask[t.stretch].reshape(t.shape[0], -1) for t in layout.tensors if t.prunable]
        assert sum(int(part.any(1).sum()) for part in rows[:-1]) == left
        assert rows[-1].all()
