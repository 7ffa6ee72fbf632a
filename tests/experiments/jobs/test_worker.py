import itertools
import os

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

from ckptlab.experiments.jobs.folder import Folder
from ckptlab.experiments.jobs.job import (
    BranchPoint,
    GivenMask,
    MaskOf,
    MeasureJob,
    Perturbed,
    Pruning,
    TrainJob,
    write_job,
)
from ckptlab.experiments.jobs.plan import ExperimentPlan
from ckptlab.experiments.jobs.worker import JobContext, run_jobs
from ckptlab.experiments.operations.initialisation import fresh_weights, layout_of
from ckptlab.experiments.operations.perturbations import States, perturb
from ckptlab.experiments.operations.pruning import prunable
from ckptlab.experiments.operations.registry import parse_kind
from ckptlab.experiments.plans.imp import Pruner, plan_pretrained, prune_chain
from ckptlab.store.read.reader import open_store
from ckptlab.train.assemble import build
from ckptlab.train.config import change, load_config
from ckptlab.train.data import load_data
from ckptlab.train.datasets import imagefolder
from tests.experiments.small import SETTINGS, STEPS, Bench, do
from tests.forks import fork_server


def digests(stored) -> dict[int, int]:
    return dict(zip(stored.steps.tolist(), stored.small("digest").T.tolist(), strict=True))


@pytest.mark.parametrize("step", [31, 40])
def test_going_on_without_a_change_ends_as_the_parent(dense, tmp_path, step):
    bench = Bench(dense, tmp_path, "record.steps=0:")
    parent = bench.parent
    child = bench.do(
        TrainJob(config=parent.branch(step), source=parent.source(step, optimizer="stored"))
    )
    assert child.steps.tolist() == list(range(step, STEPS + 1))
    expected = digests(bench.stored)
    assert digests(child) == {k: expected[k] for k in range(step, STEPS + 1)}
    assert child.small("eval_accuracy")[-1] == bench.stored.small("eval_accuracy")[-1]


def by_hand(weights: np.ndarray, mask: np.ndarray, layout) -> np.ndarray:
    """Remove the fifth of the survivors of lowest magnitude, one by one."""
    alive = [i for i in range(len(mask)) if mask[i] and prunable(layout)[i]]
    alive.sort(key=lambda i: (abs(weights[i]), i))
    pruned = mask.copy()
    pruned[alive[: round(0.2 * len(alive))]] = False
    return pruned


def test_levels_are_pruned_from_the_level_before_and_rewound(dense, tmp_path):
    bench = Bench(dense, tmp_path, "record.steps=0:")
    source = bench.parent.source(10)
    chain = prune_chain(bench.plan, bench.parent, source, Pruner(levels=3), dense=bench.parent.run)
    bench.do_all()
    runs = [bench.stored, *(bench.open(key) for key in chain[1:])]
    mask = np.ones(bench.stored.layout.parameters, bool)
    for before, run in itertools.pairwise(runs):
        mask = by_hand(before.snapshot(STEPS), mask, run.layout)
        assert np.array_equal(run.mask(), mask)
        assert run.steps.tolist() == list(range(10, STEPS + 1))
        rewound = bench.stored.snapshot(10)
        assert np.array_equal(run.snapshot(10), np.where(mask, rewound, 0))
        assert np.array_equal(run.snapshot(10, "buffers"), bench.stored.snapshot(10, "buffers"))
        for step in run.steps:
            assert not run.snapshot(int(step))[~mask].view(np.uint32).any()
        assert run.attributes["density"] == mask[prunable(run.layout)].mean()
        # Learning rate and order go on from the rewind point.
        assert run.small("lr")[1:].tolist() == bench.stored.small("lr")[11:].tolist()


def test_a_level_trains_as_a_loop_by_hand(dense, tmp_path):
    bench = Bench(dense, tmp_path)
    pruning = Pruner(levels=1).prune(bench.parent.run)
    job = TrainJob(config=bench.parent.branch(10), source=bench.parent.source(10), mask=pruning)
    run = bench.do(job)
    training = build(load_config(overrides=SETTINGS))
    start = torch.from_numpy(run.snapshot(10))
    torch.nn.utils.vector_to_parameters(start, training.model.parameters())
    floats = [b for b in training.model.buffers() if b.is_floating_point()]
    parts = torch.from_numpy(run.snapshot(10, "buffers")).split([len(b) for b in floats])
    for buffer, part in zip(floats, parts, strict=True):
        buffer.copy_(part)
    kept = (
        torch.from_numpy(run.mask()).float().split([p.numel() for p in training.model.parameters()])
    )
    with training.numerics():
        for k in range(10, STEPS):
            training.step(k)
            with torch.no_grad():
                for p, m in zip(training.model.parameters(), kept, strict=True):
                    p.mul_(m.view_as(p))
    expected = torch.nn.utils.parameters_to_vector(training.model.parameters()).detach().numpy()
    # Zeroing after each update is the same, but for momentum, which acts on pruned weights alone.
    assert np.array_equal(run.snapshot(STEPS), expected)


@pytest.mark.parametrize("kind", ["shuffle:filter", "sign:fresh,magnitude:0", "noise:0.5"])
def test_training_begins_with_the_perturbed_weights(dense, tmp_path, kind):
    bench = Bench(dense, tmp_path)
    mask = Pruning(run=bench.parent.run, fraction=0.3)
    job = TrainJob(
        config=bench.parent.branch(20),
        source=bench.parent.source(20),
        mask=mask,
        perturbation=Perturbed(kind=kind, seed=5, fresh_seed=6),
    )
    run = bench.do(job)
    states = States(
        now=bench.stored.snapshot(20),
        initial=bench.stored.snapshot(0),
        fresh=fresh_weights(job.config, 6),
        mask=run.mask(),
        layout=run.layout,
    )
    expected = perturb(states, parse_kind(kind), np.random.default_rng(5))
    assert np.array_equal(run.snapshot(20), expected)
    change_of = (expected - states.now)[states.survivors].astype(float)
    assert run.attributes["effective_std"] == pytest.approx(change_of.std(), rel=1e-6)
    assert not run.snapshot(STEPS)[~run.mask()].any()


def test_fresh_weights_are_those_of_another_seed():
    config = load_config(overrides=SETTINGS)
    other = build(change(config, train={"init_seed": 9}))
    flat = torch.nn.utils.parameters_to_vector(other.model.parameters()).detach().numpy()
    assert np.array_equal(fresh_weights(config, 9), flat)
    assert not np.array_equal(fresh_weights(config, 8), flat)


def test_pre_training_on_another_number_of_classes(dense, tmp_path):
    bench = Bench(dense, tmp_path)
    parent = bench.parent
    pre = TrainJob(
        config=change(parent.config, task={"name": "rotation"}, train={"steps": 6}),
        source=parent.source(0),
        mask=Pruning(run=parent.run, fraction=0.5),
    )
    proxy = bench.do(pre)
    head = proxy.layout["fc.weight"].offset
    assert proxy.attributes["branch"]["new_tensors"] == ["fc.weight", "fc.bias"]
    # The output layer of the proxy is whole; the rest is pruned as the network is.
    assert proxy.mask()[head:].all()
    key = bench.plan.add(pre)
    source = BranchPoint(run=key, step=6, at=0)
    run = bench.do(
        TrainJob(config=parent.branch(0), source=source, mask=Pruning(run=parent.run, fraction=0.5))
    )
    assert np.array_equal(run.mask()[:head], proxy.mask()[:head])
    assert not run.mask()[head:].all()
    assert np.array_equal(run.snapshot(0)[:head], proxy.snapshot(6)[:head])
    fresh = np.where(run.mask(), fresh_weights(parent.config, 0), 0)
    assert np.array_equal(run.snapshot(0)[head:], fresh[head:])


@pytest.mark.parametrize(("budget", "first"), [("full", 0), ("remaining", 12)])
def test_budgets_number_the_pre_trained_state(dense, tmp_path, budget, first):
    bench = Bench(dense, tmp_path)
    source = BranchPoint(run=bench.parent.run, step=12)
    runs = plan_pretrained(bench.plan, bench.parent, source, pruner=Pruner(levels=1), budget=budget)
    bench.do_all()
    for key in runs:
        run = bench.open(key)
        assert (run.steps[0], run.steps[-1]) == (first, STEPS)
        assert run.attributes["branch"]["step"] == 12
    assert bench.open(runs[1]).mask() is not None


def _perform_and_die(key, text, place, step):
    import ckptlab.train.trainer as trainer

    real = trainer.Training.step

    def step_or_die(self, k):
        if k == step:
            os._exit(9)
        return real(self, k)

    trainer.Training.step = step_or_die
    run_jobs([(key, text)], place)


def pruned(bench):
    """The job that is killed."""
    return TrainJob(
        config=bench.parent.branch(4),
        source=bench.parent.source(4),
        mask=Pruning(run=bench.parent.run, fraction=0.3),
    )


@pytest.fixture(scope="module")
def done_at_once(dense, tmp_path_factory):
    """The digests of the job that nobody kills."""
    bench = Bench(dense, tmp_path_factory.mktemp("whole"), "record.steps=0:")
    return digests(bench.do(pruned(bench)))


@pytest.mark.parametrize("step", [11, 36, 47])
def test_a_job_that_was_killed_goes_on_where_it_was(dense, done_at_once, tmp_path, step):
    bench = Bench(dense, tmp_path / "killed", "record.steps=0:")
    job = pruned(bench)
    key = bench.plan.add(job)
    process = fork_server().Process(
        target=_perform_and_die, args=(key, write_job(job), bench.place, step)
    )
    process.start()
    process.join()
    assert process.exitcode == 9
    assert not bench.folder.is_done(key, job)
    before = len(open_store(bench.folder.result(key, job)).steps)
    assert digests(bench.do(job)) == done_at_once
    assert before in (0, 32)


def test_a_job_that_can_not_go_on_is_begun_again(dense, tmp_path):
    bench = Bench(dense, tmp_path)
    job = TrainJob(config=bench.parent.branch(4), source=bench.parent.source(4))
    other = change(job.config, train={"augment_seed": 3})
    key = bench.plan.add(job)
    from ckptlab.train.trainer import train

    train(other, str(bench.folder.result(key, job)))
    stored = open_store(bench.folder.result(key, job))
    root = bench.folder.result(key, job) / "zarr.json"
    assert stored.state == "complete"
    # As if it had been stopped: the settings are not those of the job.
    from ckptlab.store.backends.open import open_storage
    from ckptlab.store.write.writer import StoreWriter

    writer = StoreWriter.resume(open_storage(root.parent))
    writer.cut(8)
    writer.finish("interrupted")
    run = bench.do(job)
    assert run.steps[0] == 4
    assert run.state == "complete"


def test_given_masks_and_masks_of_runs(dense, tmp_path):
    bench = Bench(dense, tmp_path)
    rng = np.random.default_rng(0)
    mask = (rng.random(bench.stored.layout.parameters) > 0.5) | ~prunable(bench.stored.layout)
    digest = bench.folder.keep_mask(mask)
    first = TrainJob(
        config=bench.parent.branch(4), source=bench.parent.source(4), mask=GivenMask(digest=digest)
    )
    assert np.array_equal(bench.do(first).mask(), mask)
    second = first.model_copy(update={"mask": MaskOf(run=bench.plan.add(first))})
    assert np.array_equal(bench.do(second).mask(), mask)
    missing = first.model_copy(update={"mask": GivenMask(digest="0" * 16)})
    with pytest.raises(AssertionError, match="give the mask again"):
        bench.do(missing)


def test_measurements_are_small_datasets(dense, tmp_path):
    bench = Bench(dense, tmp_path)
    job = MeasureJob(metric="sign-flips", run=bench.parent.run, options={"relative_to": "init"})
    key = bench.plan.add(job)
    do(bench, key)
    found = xr.open_zarr(bench.folder.result(key, job))
    expected = xr.open_zarr(dense).weights.values
    signs = np.sign(expected) * np.sign(expected[:, :1]) < 0
    kinds = bench.stored.layout.select()[bench.stored.layout.tensor_index()]
    assert np.array_equal(found.sign_flips.values, signs[kinds].mean(0))


def test_a_sparse_source_needs_a_mask(dense, tmp_path):
    bench = Bench(dense, tmp_path)
    job = TrainJob(
        config=bench.parent.branch(4),
        source=bench.parent.source(4),
        mask=Pruning(run=bench.parent.run, fraction=0.3),
    )
    source = BranchPoint(run=bench.plan.add(job), step=STEPS)
    bench.do(job)
    with pytest.raises(AssertionError, match="which mask it keeps"):
        bench.do(TrainJob(config=bench.parent.branch(4), source=source))


def test_the_layout_is_that_of_the_settings():
    assert layout_of(load_config(overrides=SETTINGS)).parameters == sum(
        p.numel() for p in build(load_config(overrides=SETTINGS)).model.parameters()
    )


def test_jobs_done_together_are_as_if_done_alone(dense, tmp_path):
    together, alone = Bench(dense, tmp_path / "together"), Bench(dense, tmp_path / "alone")
    jobs = [
        TrainJob(config=together.parent.branch(k), source=together.parent.source(k), mask=mask)
        for k, mask in (
            (0, None),
            (10, Pruning(run=together.parent.run, fraction=0.5)),
            (20, Pruning(run=together.parent.run, fraction=0.5, method="random")),
        )
    ]
    keys = [together.plan.add(job) for job in jobs]
    failing = TrainJob(config=together.parent.branch(4), source=BranchPoint(run=keys[0], step=999))
    tasks = [(together.plan.add(job), write_job(job)) for job in (failing, *jobs)]
    results = run_jobs(tasks, together.place)
    assert [result.error is None for result in results] == [False, True, True, True]
    for key, job in zip(keys, jobs, strict=True):
        assert digests(together.open(key)) == digests(alone.do(job))


def test_images_are_read_once_for_trainings_and_measurements(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    images = tmp_path / "images"
    for half in ("train", "test"):
        for name in ("a", "b"):
            (images / half / name).mkdir(parents=True)
            for i in range(16):
                pixels = generator.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(images / half / name / f"{i:02}.png")
    # The settings of `SETTINGS` for other data do not apply.
    own = [text for text in SETTINGS if not text.startswith("data.")]
    config = load_config(overrides=[*own, "data.name=imagefolder", f"data.root={images}"])
    plan = ExperimentPlan(title="test", kind="record")
    run = plan.add(TrainJob(config=change(config, train={"steps": 4})))
    options = {"steps": "4", "samples": 8}
    measures = [
        plan.add(MeasureJob(metric="fisher-trace", run=run, options={**options, "seed": seed}))
        for seed in (0, 1)
    ]
    folder = Folder(tmp_path / "folder")
    folder.make()
    context = JobContext(folder=str(folder.path), recordings={})
    reads = []
    read = imagefolder._read
    monkeypatch.setattr(imagefolder, "_read", lambda *files: reads.append(1) or read(*files))
    for key in (run, *measures):
        (result,) = run_jobs([(key, write_job(plan.jobs[key]))], context)
        assert result.error is None
    assert len(reads) == 2  # both halves
    # Outside jobs they are read as they are then.
    load_data(config.data)
    load_data(config.data)
    assert len(reads) == 6
