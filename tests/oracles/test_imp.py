"""A whole series of IMP, and its control reinit, against the algorithm written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ckptlab.experiments.plans.imp import Pruner, plan_imp
from tests.experiments.small import Bench, record_dense
from tests.oracles import subnetworks as oracles
from tests.oracles.plain import PlainRun

REWIND, LEVELS, FRACTION = 4, 2, 0.3
MLP = ("model.name=mlp", "model.width=8", "train.steps=16")
EVERY = ("record.steps=0:",)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], PlainRun]:
    """The runs of each criterion and level; level 0 is the dense run."""
    torch.set_num_threads(1)
    folder: Path = tmp_path_factory.mktemp("imp")
    path = record_dense(folder / "dense.zarr", *MLP, *EVERY)
    bench = Bench(path, folder / "jobs", *EVERY)
    pruner = Pruner(levels=LEVELS, fraction=FRACTION)
    plan_imp(bench.plan, bench.parents, rewind=[REWIND], pruner=pruner, pruning=["imp", "reinit"])
    bench.do_all()
    return {
        (cell.at["pruning"], cell.at["level"]): PlainRun(
            Path(bench.open(cell.run).path if cell.at["level"] else path)
        )
        for cell in bench.plan.cells
    }


def table(run: PlainRun) -> list[dict[str, object]]:
    return [
        {
            "name": t["name"],
            "shape": t["shape"],
            "offset": t["offset"],
            "prunable": len(t["shape"]) > 1,
        }
        for t in run.tensors
    ]


def masks(series: dict[tuple[str, int], PlainRun]) -> list[np.ndarray]:
    """The mask of each level, from what the level before ended with."""
    found = [np.ones(len(series["imp", 0].weights), bool)]
    for level in range(LEVELS):
        ended = series["imp", level].weights[:, -1]
        found.append(
            oracles.magnitude(ended, found[-1], table(series["imp", 0]), FRACTION, "global")
        )
    return found


@pytest.mark.parametrize("level", range(1, LEVELS + 1))
def test_imp(series: dict[tuple[str, int], PlainRun], level: int) -> None:
    dense, run, keep = series["imp", 0], series["imp", level], masks(series)[level]
    np.testing.assert_array_equal(run["mask"].astype(bool), keep)
    rewound = dense.weights[:, dense.column(REWIND)]
    np.testing.assert_array_equal(run.weights[:, 0], oracles.masked(keep, rewound))
    assert not run.weights[~keep].any()
    assert (run.steps[0], run.steps[-1]) == (REWIND, 16)


def test_reinit(series: dict[tuple[str, int], PlainRun]) -> None:
    dense, kept = series["imp", 0], masks(series)
    starts = []
    for level in range(1, LEVELS + 1):
        run, keep = series["reinit", level], kept[level]
        np.testing.assert_array_equal(run["mask"].astype(bool), keep)
        assert not run.weights[~keep].any()
        assert (run.steps[0], run.steps[-1]) == (REWIND, 16)
        starts.append(run.weights[:, 0])
    # One draw for all levels, and another one than the dense network's.
    np.testing.assert_array_equal(starts[1], oracles.masked(kept[2], starts[0]))
    prunable = oracles.groups(table(dense), kept[1], "layer")
    for row in table(dense):
        if row["prunable"]:
            members = prunable[row["name"]]
            values, count = starts[0][members], len(members)
            assert (values != dense.weights[members, 0]).all()
            spread = values.var() / oracles.sigma(row) ** 2
            assert abs(spread - 1) < 5 * np.sqrt(2 / count)
