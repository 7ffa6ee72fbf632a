"""Own problems are trained, resumed, branched from and measured as plain loops do."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

import ckptlab
from ckptlab.analyze.engine.labels import loss_units
from ckptlab.errors import CkptlabError, ConfigError, UnknownNameError, UntrustedNameError
from ckptlab.experiments.plans.imp import Pruner, plan_imp
from ckptlab.experiments.plans.perturb import plan_perturb
from ckptlab.problems.scores import MeanLoss
from ckptlab.registry import _allowed
from ckptlab.train.assemble import build
from ckptlab.train.config import canonical, change, default_path, load_config, parse_config
from ckptlab.train.order import Order
from ckptlab.train.problem_settings import PROBLEMS
from tests.experiments.small import Bench
from tests.problems import own

HERE = "tests.problems.own"
FEW = ["train.steps=12", "train.batch_size=8", "train.device=cpu", "train.threads=1"]
FEW += ["record.fsync=false", "eval.steps=0::4"]


def settings(name: str, *more: str) -> list[str]:
    return [f"problem.name={HERE}:{name}", *FEW, *more]


def by_hand(problem: ckptlab.Problem, state, steps: int = 12, batch=None, before=lambda k: None):
    """Train in a plain loop, in the order that the seed gives; return all parameter vectors."""
    model = problem.model()
    model.load_state_dict(state)
    optimizer = problem.optimizer(list(model.parameters()))
    order = Order(samples=len(problem.train), batch_size=8, seed=0)
    vectors = [nn.utils.parameters_to_vector(model.parameters()).detach().numpy()]
    for k in range(steps):
        index = order.batch_at(k)
        inputs, targets = problem.train.take(index) if batch is None else batch(index, k)
        before(k)
        loss = problem.loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        vectors.append(nn.utils.parameters_to_vector(model.parameters()).detach().numpy())
    return model, vectors


@pytest.mark.parametrize("name", ["regression", "labels", "items", "groups"])
def test_a_problem_is_trained_as_by_a_plain_loop_bit_for_bit(name, tmp_path):
    run = ckptlab.record_training(tmp_path / "a.zarr", settings(name))
    problem = getattr(own, name)()
    model, vectors = by_hand(problem, run.state_dict(0))
    for k, vector in enumerate(vectors):
        np.testing.assert_array_equal(run.snapshot(k), vector)
    inputs, targets = problem.test.take(np.arange(len(problem.test)))
    with torch.no_grad():
        outputs = model.eval()(inputs)
    found = run.analyze("evaluation").isel(eval_step=-1)
    assert float(found["eval_loss"]) == pytest.approx(float(problem.loss(outputs, targets)))
    right = problem.accuracy(outputs, targets).float().mean()
    assert float(found["eval_accuracy"]) == pytest.approx(float(right))
    # Evaluated afterwards, from the snapshots, it is the same.
    again = run.analyze("evaluation", steps="0::4")
    np.testing.assert_allclose(again["eval_loss"], run.analyze("evaluation")["eval_loss"])
    np.testing.assert_allclose(again["eval_accuracy"], run.analyze("evaluation")["eval_accuracy"])


def test_a_language_with_dropout_counts_right_tokens(tmp_path):
    paths = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    runs = [ckptlab.record_training(path, settings("language", "optim.lr=0.5")) for path in paths]
    np.testing.assert_array_equal(runs[0].snapshot(12), runs[1].snapshot(12))
    model, problem = own.Letters().eval(), own.language()
    model.load_state_dict(runs[0].state_dict(12))
    inputs, targets = problem.test.take(np.arange(10))
    right = (model(inputs).argmax(-1) == targets).float().mean()
    found = runs[0].analyze("evaluation")
    assert float(found["eval_accuracy"][-1]) == pytest.approx(float(right))
    # As many eigenvalues as letters, not as places.
    spectrum = runs[0].analyze("hessian-spectrum", steps=0, samples=4)
    assert spectrum.sizes["eigenvalue"] == model(inputs).shape[-1] != inputs.shape[1]


def test_a_loss_is_in_nats_where_it_is_a_cross_entropy(tmp_path):
    run = ckptlab.record_training(tmp_path / "a.zarr", settings("regression"))
    for found in (run.analyze("evaluation"), run.analyze("evaluation", steps=0)):
        assert found["eval_loss"].attrs["units"] == "loss"
    assert run.analyze("telemetry")["loss"].attrs["units"] == "loss"
    line = run.analyze("connectivity", other="@0", alphas=2)
    assert line["loss"].attrs["units"] == line["loss_barrier"].attrs["units"] == "loss"
    entropy = [nn.CrossEntropyLoss(), nn.functional.cross_entropy, nn.BCEWithLogitsLoss(), None]
    assert {MeanLoss(loss).units for loss in entropy} == {"nats"}
    for name, units in (("mse", "loss"), ("token-cross-entropy", "nats")):
        assert loss_units({"config": {"model": {}, "loss": {"name": name}}}) == units
    assert loss_units({"config": {"model": {}}}) == "nats"
    assert loss_units({"config": {"lr": 1}}) == "loss"


def test_an_augmentation_depends_on_the_step(tmp_path):
    run = ckptlab.record_training(tmp_path / "a.zarr", settings("augmented"))
    shifted = own.Shifted()
    _, vectors = by_hand(own.augmented(), run.state_dict(0), batch=shifted.batch)
    np.testing.assert_array_equal(run.snapshot(12), vectors[12])


def test_rates_of_the_problem_s_optimizer_are_scaled_by_the_schedule(tmp_path):
    run = ckptlab.record_training(tmp_path / "a.zarr", settings("groups", "optim.warmup=4"))
    assert run.stored.small("lr")[1:6] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    run = ckptlab.record_training(tmp_path / "b.zarr", settings("groups", "optim.lr=0.2"))
    assert run.stored.small("lr")[1:] == pytest.approx([0.2] * 12)
    settled = load_config(overrides=settings("regression", "optim.name=adamw", "optim.lr=0.01"))
    assert isinstance(build(settled).optimizer, torch.optim.AdamW)


def test_parts_one_by_one_are_the_same_problem(tmp_path):
    parts = [f"model.name={HERE}:shaped", f"data.name={HERE}:load", f"loss.name={HERE}:squared"]
    parts += [f"loss.accuracy={HERE}:within", "optim.lr=0.05", "optim.weight_decay=0"]
    run = ckptlab.record_training(tmp_path / "a.zarr", [*parts, *FEW])
    whole = ckptlab.record_training(tmp_path / "b.zarr", settings("regression"))
    np.testing.assert_allclose(run.snapshot(12), whole.snapshot(12), rtol=1e-6)
    np.testing.assert_allclose(
        run.stored.small("eval_accuracy"), whole.stored.small("eval_accuracy")
    )
    assert (
        run.analyze("hessian-spectrum", steps=12, samples=8, eigenvalues=1).sizes["eigenvalue"] == 1
    )
    named = [*parts[:2], "loss.name=mse", *parts[3:], *FEW]
    np.testing.assert_array_equal(
        ckptlab.record_training(tmp_path / "c.zarr", named).snapshot(12), run.snapshot(12)
    )


def test_objects_and_functions_from_python(tmp_path):
    problem = own.regression()
    run = ckptlab.record_training(tmp_path / "a.zarr", FEW, problem=problem)
    assert run.attributes["config"]["problem"] == {"name": "problem"}
    assert "model" not in run.attributes["config"]
    again = ckptlab.record_training(tmp_path / "b.zarr", FEW, problem=own.regression)
    np.testing.assert_array_equal(run.snapshot(12), again.snapshot(12))
    spectrum = run.analyze("hessian-spectrum", steps=12, samples=8, eigenvalues=1, problem=problem)
    assert np.isfinite(spectrum["sharpness"]).all()
    with pytest.raises(ConfigError, match=r"problem=3: a problem is a ckptlab\.Problem"):
        ckptlab.record_training(tmp_path / "c.zarr", problem=3)


def test_a_run_of_a_loop_is_measured_on_a_problem(tmp_path):
    problem = own.regression()
    model = problem.model()
    with ckptlab.Recorder(tmp_path / "a.zarr", model, own.sgd(model.parameters())) as recorder:
        recorder.evaluate(loss=0.0, accuracy=0.0)
    run = ckptlab.open_run(tmp_path / "a.zarr")
    found = run.analyze("evaluation", steps=0, problem=problem)
    inputs, targets = problem.test.take(np.arange(len(problem.test)))
    wanted = float(problem.loss(model(inputs), targets))
    assert float(found["eval_loss"][0]) == pytest.approx(wanted, rel=1e-5)


def test_a_run_of_a_loop_is_pruned_and_perturbed_as_a_problem(tmp_path):
    problem, model = own.regression(), own.net()
    optimizer = own.sgd(model.parameters())
    with ckptlab.Recorder(tmp_path / "a.zarr", model, optimizer, fsync=False) as recorder:
        for _ in range(10):
            inputs, targets = problem.train.take(np.arange(20))
            loss = problem.loss(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.step(loss=loss.detach())
    with pytest.raises(ConfigError, match=r"-S problem\.name="):
        Bench(str(tmp_path / "a.zarr"), tmp_path / "x")
    bench = Bench(
        str(tmp_path / "a.zarr"), tmp_path / "x", *settings("regression", "train.steps=12")
    )
    plan_imp(bench.plan, bench.parents, rewind=[4], pruner=Pruner(levels=1))
    plan_perturb(bench.plan, bench.parents, rewind=[4], perturbations=["shuffle:layer"])
    bench.do_all()
    pruned, shuffled = (bench.open(key) for key in bench.plan.jobs)
    start = bench.stored.snapshot(4)
    np.testing.assert_array_equal(pruned.snapshot(4), start * pruned.mask())
    assert pruned.mask().sum() == len(start) - round(0.2 * 40)
    np.testing.assert_array_equal(np.sort(shuffled.snapshot(4)), np.sort(start))


def test_resuming_and_branching_need_the_user_s_word(tmp_path):
    whole, path = tmp_path / "whole.zarr", tmp_path / "a.zarr"
    full = ckptlab.record_training(whole, settings("sine", "problem.options.hidden=5"))
    ckptlab.record_training(path, settings("sine", "problem.options.hidden=5", "train.steps=7"))
    _allowed.clear()
    sys.modules.pop(HERE, None)
    assert ckptlab.open_run(path).analyze("weight-distance").size
    assert ckptlab.open_run(path).analyze("telemetry").sizes
    assert HERE not in sys.modules
    for ask in (
        lambda: ckptlab.record_training(path, ["train.steps=12"], resume=True),
        lambda: ckptlab.record_branch(tmp_path / "b.zarr", path, 3),
        lambda: ckptlab.open_run(path).analyze("hessian-spectrum"),
    ):
        with pytest.raises(UntrustedNameError, match=rf"problem\.name={HERE}:sine.*--allow"):
            ask()
    assert HERE not in sys.modules
    ckptlab.allow(f"{HERE}:sine")
    resumed = ckptlab.record_training(path, ["train.steps=12"], resume=True)
    np.testing.assert_array_equal(full.snapshot(12), resumed.snapshot(12))
    branch = ckptlab.record_branch(tmp_path / "b.zarr", whole, 5)
    np.testing.assert_array_equal(full.snapshot(12), branch.snapshot(12))


def test_a_name_of_a_plugin_that_is_not_loaded_names_the_flag(tmp_path):
    PROBLEMS.add(PROBLEMS._adapt("passing", own.regression), "a file")
    run = ckptlab.record_training(tmp_path / "a.zarr", ["problem.name=passing", *FEW])
    del PROBLEMS._entries["passing"]
    for ask in (
        lambda: ckptlab.record_training(run.path, ["train.steps=13"], resume=True),
        lambda: run.analyze("hessian-spectrum"),
    ):
        with pytest.raises(UnknownNameError, match=r"unknown problem\.name.*--plugin \w+\.py"):
            ask()


BAD = {
    "no_module": "returns int; a torch.nn.Module is needed",
    "a_module": "is a module itself",
    "same_module": "returns the same module again",
    "failing_model": "the model's function failed: TypeError",
    "no_dataset": r"Problem\(train=...\) is int; accepted",
    "empty_dataset": r"Problem\(test=...\) holds no example",
    "no_pairs": "no pairs of input and target",
    "no_scalar": r"returns torch.float32 of shape \(2, 1\); a tensor of shape \(\) is needed",
    "a_number": "returns float; a tensor",
    "failing_loss": "the loss <lambda> failed: RuntimeError",
    "noisy": "torch's generator does not decide",
    "noisy_evaluation": "in evaluation too",
    "other_inputs": r"does not take inputs of torch.float32 and shape \(2, 4\)",
    "no_optimizer": r"brings no optimizer: give Problem\(optimizer=...\)",
    "odd_optimizer": "makes float; a torch.optim.Optimizer",
    "no_problem": "returns int; a ckptlab.Problem is needed",
    "raising": "raising failed: RuntimeError: no",
    "missing": "object of tests.problems.own",
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_one_line(name):
    config = load_config(overrides=settings(name))

    def twice() -> None:
        build(config)
        build(config)

    with pytest.raises(CkptlabError, match=BAD[name]) as caught:
        twice()
    assert "\n" not in str(caught.value)


def test_what_a_problem_replaces_cannot_be_set():
    with pytest.raises(ConfigError, match=r"model does not apply to problem\.name"):
        load_config(overrides=settings("regression", "model.name=mlp"))
    with pytest.raises(ConfigError, match=r"problem\.name *is not set"):
        load_config(overrides=["optim.name=problem"])
    with pytest.raises(UnknownNameError, match=r"unknown problem\.name 'nothing'"):
        load_config(overrides=["problem.name=nothing"])
    images = ["model.name=mlp", f"data.name={HERE}:load"]
    with pytest.raises(ConfigError, match=r"takes images.*other examples"):
        build(load_config(overrides=images))


def test_settings_name_the_problem_alone():
    plain = load_config()
    assert "problem" not in canonical(plain)
    assert "loss" not in canonical(plain)
    config = load_config(overrides=settings("regression"))
    written = config.model_dump(mode="json")
    assert not {"model", "data", "task", "loss"} & set(written)
    assert written["optim"]["name"] == "problem"
    assert parse_config(written) == config
    assert default_path(config).startswith(f"runs/{HERE}-regression-")
    # Over other settings, a problem drops what belonged to the network before.
    preset = load_config(preset="resnet20-cifar10")
    assert change(preset, problem={"name": f"{HERE}:sine"}).optim.name == "problem"
