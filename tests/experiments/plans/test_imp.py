"""Choices of iterative pruning, each against masks made by hand."""

import numpy as np
import pytest

from ckptlab.errors import UnknownNameError
from ckptlab.experiments.operations.pruning import prunable
from ckptlab.experiments.plans.imp import Pruner, plan_imp
from tests.experiments.small import STEPS, Bench

CRITERIA = ["imp", "random", "random-nested", "random-layers", "reinit", "reinit-levels"]


@pytest.fixture(scope="module")
def bench(dense, tmp_path_factory):
    """Every criterion at two levels."""
    found = Bench(dense, tmp_path_factory.mktemp("criteria"))
    plan_imp(found.plan, found.parents, rewind=[8], pruner=Pruner(levels=2), pruning=CRITERIA)
    found.do_all()
    return found


def runs_of(bench: Bench, name: str) -> list:
    cells = [cell for cell in bench.plan.cells if cell.at["pruning"] == name and cell.at["level"]]
    return [bench.open(cell.run) for cell in cells]


def test_random_masks_are_nested_where_they_say_so(bench):
    for name, nested in (("imp", True), ("random", False), ("random-nested", True)):
        first, second = (run.mask() for run in runs_of(bench, name))
        assert (not (second & ~first).any()) == nested
        assert second.sum() == runs_of(bench, "imp")[1].mask().sum()


def test_random_layers_are_as_dense_as_those_of_imp(bench):
    tensors = bench.stored.layout.tensor_index()
    for one, other in zip(runs_of(bench, "imp"), runs_of(bench, "random-layers"), strict=True):
        kept = [np.bincount(tensors[run.mask()]) for run in (one, other)]
        assert np.array_equal(*kept)
        assert not np.array_equal(one.mask(), other.mask())


def test_reinitialisations_are_one_for_all_levels_or_one_for_each(bench):
    flags = prunable(bench.stored.layout)
    for name, same in (("reinit", True), ("reinit-levels", False)):
        first, second = runs_of(bench, name)
        both = first.mask() & second.mask() & flags
        begun = [run.snapshot(8)[both] for run in (first, second)]
        assert np.array_equal(*begun) == same
        imp = runs_of(bench, "imp")
        assert np.array_equal(second.mask(), imp[1].mask())


def test_the_output_layer_can_be_kept(dense, tmp_path):
    bench = Bench(dense, tmp_path)
    pruner = Pruner(levels=1, fraction=0.5, keep=("output",))
    plan_imp(bench.plan, bench.parents, rewind=[8], pruner=pruner)
    bench.do_all()
    (run,) = runs_of(bench, "imp")
    tensor = run.layout["fc.weight"]
    head = np.zeros(run.layout.parameters, bool)
    head[tensor.offset : tensor.offset + tensor.size] = True
    assert run.mask()[head].all()
    rest = prunable(run.layout) & ~head
    assert rest.sum() - run.mask()[rest].sum() == round(0.5 * rest.sum())
    with pytest.raises(
        UnknownNameError, match=r"tensor to keep 'fc\.wight'.*Did you mean 'fc\.weight'"
    ):
        prunable(run.layout, ("fc.wight",))


def test_level_0_can_be_trained_from_the_rewind_step_too(dense, tmp_path):
    bench = Bench(dense, tmp_path, "record.steps=0:")
    pruner = Pruner(levels=1)
    plan_imp(bench.plan, bench.parents, rewind=[8], pruner=pruner, retrain_dense=True)
    bench.do_all()
    level_0, level_1 = (bench.open(cell.run) for cell in bench.plan.cells)
    assert np.array_equal(level_0.snapshot(8), bench.stored.snapshot(8))
    assert level_0.attributes["branch"]["optimizer"] == "fresh"
    # Without momentum it goes elsewhere; masks still come from the dense training.
    assert not np.array_equal(level_0.snapshot(STEPS), bench.stored.snapshot(STEPS))
    alive = prunable(bench.stored.layout)
    sizes = np.abs(bench.stored.snapshot(STEPS))
    assert sizes[alive & ~level_1.mask()].max() <= sizes[alive & level_1.mask()].min()
