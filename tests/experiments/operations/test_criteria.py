"""Pruning criteria of users, by decorator and by name."""

import sys

import numpy as np
import pytest

import ckptlab
from ckptlab.errors import PluginError, UnknownNameError, UntrustedNameError
from ckptlab.experiments.operations.criteria import PRUNING, score_function
from ckptlab.experiments.plans.imp import Pruner, plan_imp
from ckptlab.registry import allow
from tests.experiments.small import STEPS, Bench

MODULE = """
import numpy as np

def moved(weights, start):
    "Remove what moved least."
    return np.abs(weights - start)

def wrong(weights, missing):
    return weights
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "own_criteria.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_criteria"
    sys.modules.pop("own_criteria", None)


def test_a_user_s_criterion_decides_which_weights_go(dense, tmp_path, module):
    name = f"{module}:moved"
    allow(name)
    bench = Bench(dense, tmp_path / "folder")
    plan_imp(bench.plan, bench.parents, rewind=[8], pruner=Pruner(levels=2), pruning=[name])
    bench.do_all()
    runs = {cell.at["level"]: cell.run for cell in bench.plan.cells}
    before, first = bench.stored, 0
    alive = bench.stored.layout.select()[bench.stored.layout.tensor_index()]
    for level in (1, 2):
        run = bench.open(runs[level])
        change = np.abs(before.snapshot(STEPS) - before.snapshot(first))
        gone, kept = alive & ~run.mask(), alive & run.mask()
        assert gone.sum() == round(0.2 * alive.sum())
        assert change[gone].max() <= change[kept].min()
        before, first, alive = run, 8, kept
    assert PRUNING.find(name).summary == "Remove what moved least."


def test_code_that_no_user_named_is_not_imported(module):
    with pytest.raises(UntrustedNameError, match="--allow own_criteria:other"):
        PRUNING.find(f"{module}:other")
    assert module not in sys.modules


def test_a_function_of_another_form_is_refused(module):
    allow(f"{module}:wrong")
    with pytest.raises(PluginError, match="'missing' is neither an argument nor has a default"):
        PRUNING.find(f"{module}:wrong")
    with pytest.raises(UnknownNameError, match="Did you mean 'one-shot'"):
        PRUNING.find("oneshot")


def test_a_decorated_function_stays_a_function():
    @ckptlab.pruning(name="test-largest", iterative=False)
    def largest(weights):
        """Remove the largest."""
        return -np.abs(weights)

    assert largest(np.array([1.0, -2.0])).tolist() == [-1, -2]
    assert PRUNING["test-largest"].masks == "dense"
    assert score_function("test-largest") is largest
    with pytest.raises(PluginError, match="Choose another name"):
        ckptlab.pruning(name="imp")(largest)
