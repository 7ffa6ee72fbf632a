"""Parents of experiments: recordings, branches, and trainings repeated from a seed."""

import numpy as np
import pytest

from ckptlab.errors import ConfigError, MissingStepError, StepError, UnknownNameError
from ckptlab.experiments.operations.pruning import prunable
from ckptlab.experiments.plans.imp import Pruner, plan_imp
from ckptlab.experiments.plans.parent_run import made_parent, repeated_parent, spread
from ckptlab.experiments.plans.perturb import plan_perturb
from ckptlab.store.read.reader import open_store
from ckptlab.train.branch import branch_config, take
from ckptlab.train.config import load_config
from ckptlab.train.trainer import train
from tests.experiments.small import SETTINGS, STEPS, Bench


@pytest.fixture(scope="module")
def branch(dense, tmp_path_factory):
    """A branch of the dense run from step 10 on."""
    path = tmp_path_factory.mktemp("branch") / "branch.zarr"
    stored = open_store(dense)
    config = branch_config(stored, overrides=["optim.lr=0.05"])
    train(config, str(path), start=take(stored, 10, config, fresh_optimizer=True))
    return str(path)


def test_steps_are_read_and_must_be_recorded(dense, tmp_path):
    parent = Bench(dense, tmp_path).parent
    assert [parent.step(text) for text in ("init", "final", 4, "1ep")] == [0, STEPS, 4, 3]
    with pytest.raises(StepError, match="accepted: 0 to 48"):
        parent.step(49)
    made = made_parent(Bench(dense, tmp_path).plan, load_config(overrides=SETTINGS), record="0,5")
    assert made.step(5) == 5
    with pytest.raises(MissingStepError, match="Use rewind=5, the nearest"):
        made.step(4)
    with pytest.raises(UnknownNameError, match="augment, order, seed"):
        parent.varied(["init"])


def test_snapshots_spread_over_the_run():
    for start, end in ((0, 48), (10, 11), (5, 5)):
        first, stop, stride = map(int, spread(start, end).split(":"))
        steps = range(first, stop, stride)
        assert steps[0] == start
        assert len(steps) <= 9


def test_signs_of_step_0_of_a_branch_are_the_initialisation_s(dense, branch, tmp_path):
    bench = Bench(branch, tmp_path, kind="perturb")
    plan_perturb(
        bench.plan, bench.parents, rewind=[20], perturbations=["sign:0,magnitude:k", "none"]
    )
    bench.do_all()
    signs = bench.open(bench.plan.cells[0].run).snapshot(20)
    initial, now = open_store(dense).snapshot(0), bench.stored.snapshot(20)
    flags = prunable(bench.stored.layout)
    expected = np.where(flags, np.copysign(now, initial), now)
    assert np.array_equal(signs, expected)
    # The branch's own first step has other signs.
    assert (np.sign(bench.stored.snapshot(10)) != np.sign(initial))[flags].any()


def test_a_branch_whose_parent_is_gone_is_refused_only_where_step_0_counts(
    dense, branch, tmp_path, monkeypatch
):
    bench = Bench(branch, tmp_path, kind="perturb")
    monkeypatch.setitem(bench.stored.attributes["branch"], "run", str(tmp_path / "gone.zarr"))
    with pytest.raises(MissingStepError, match=r"sign:0,magnitude:k needs the init.*gone\.zarr"):
        plan_perturb(bench.plan, bench.parents, rewind=[20], perturbations=["sign:0,magnitude:k"])
    plan_perturb(bench.plan, bench.parents, rewind=[20], perturbations=["shuffle:layer"])


def test_replicates_from_the_seed_on_share_nothing(dense, tmp_path):
    bench = Bench(dense, tmp_path)
    others = [
        repeated_parent(bench.plan, bench.stored, threads=1, replicate=r, record=["8", "final"])
        for r in (1, 2)
    ]
    parents = [bench.parent, *others]
    plan_imp(bench.plan, parents, rewind=["8"], pruner=Pruner(levels=1))
    cells: dict[int, set[str]] = {}
    for cell in bench.plan.cells:
        cells.setdefault(cell.at["replicate"], set()).add(cell.run)
    assert sum(len(runs) for runs in cells.values()) == len(set.union(*cells.values())) == 6
    bench.do_all()
    dense_runs = [bench.stored, *(bench.open(parent.run) for parent in others)]
    for step in (0, STEPS):
        found = [run.snapshot(step).tobytes() for run in dense_runs]
        assert len(set(found)) == 3
    # Trained as the recording was: with its own seed, it is the recording.
    again = made_parent(bench.plan, load_config(overrides=SETTINGS), record="0")
    bench.do_all()
    assert np.array_equal(bench.open(again.run).snapshot(STEPS), bench.stored.snapshot(STEPS))
    seeds = [run.attributes["config"]["train"]["seed"] for run in dense_runs]
    assert seeds == [0, 1, 2]


def test_settings_of_branches_are_not_those_of_the_repeated_training(dense, tmp_path):
    bench = Bench(dense, tmp_path)
    parent = repeated_parent(
        bench.plan, bench.stored, ["optim.lr=0.03"], threads=1, replicate=1, record=["8"]
    )
    lr = bench.stored.attributes["config"]["optim"]["lr"]
    assert bench.plan.jobs[parent.run].config.optim.lr == lr
    assert parent.branch(8).optim.lr == 0.03
    assert parent.branch(8).train.seed == 1


def test_a_branch_cannot_be_repeated_from_a_seed(branch, tmp_path):
    bench = Bench(branch, tmp_path)
    with pytest.raises(ConfigError, match=r"vary=seed.*vary order,augment"):
        repeated_parent(bench.plan, bench.stored, threads=1, replicate=1, record=["20"])
