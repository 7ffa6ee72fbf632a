import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from ckptlab.errors import ConfigError
from ckptlab.train.assemble import build
from ckptlab.train.config import load_config

SMALL = ["model.name=resnet8", "model.width=4", "train.batch_size=32", "train.device=cpu"]


def vector(model):
    return parameters_to_vector(model.parameters()).detach().clone()


def trained(overrides, steps=4):
    training = build(load_config(overrides=[*SMALL, *overrides]))
    with training.numerics():
        results = [training.step(k) for k in range(steps)]
    return training, results


def test_equals_a_plain_loop_bit_for_bit():
    """Data, order and start from the trainer; batches, loss, update and rate by hand."""
    steps = 50
    overrides = ["data.crop=0", "optim.schedule=multistep", "optim.milestones=30", "optim.lr=0.05"]
    training = build(load_config(overrides=[*SMALL, *overrides]))
    plain = build(load_config(overrides=[*SMALL, *overrides]))
    model, data = plain.model, plain.problem.train.task.data
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4, foreach=False
    )
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [30])
    samples = torch.cat([plain.update.order.batch_at(k) for k in range(steps)])
    assert len(samples) == 45 * 32 - 3 + 5 * 32
    for k in range(steps):
        index = plain.update.order.batch_at(k)
        images = data.train[index].float() * data.normalise.scale + data.normalise.shift
        logits = model(images.permute(0, 3, 1, 2))
        loss = torch.nn.CrossEntropyLoss()(logits, data.train_labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        result = training.step(k)
        assert torch.equal(result.loss, loss)
        assert result.accuracy == (logits.argmax(1) == data.train_labels[index]).float().mean()
        assert torch.equal(vector(training.model), vector(model))
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(0.005)


def test_training_twice_is_the_same_and_every_seed_counts():
    reference, _ = trained([])
    again, _ = trained([])
    assert torch.equal(vector(reference.model), vector(again.model))
    for seed in ("init_seed", "order_seed", "augment_seed"):
        other, _ = trained([f"train.{seed}=1"])
        assert not torch.equal(vector(reference.model), vector(other.model)), seed
    spelled, _ = trained(["train.init_seed=0", "train.order_seed=0", "train.augment_seed=0"])
    assert torch.equal(vector(reference.model), vector(spelled.model))
    alike, _ = trained(["train.seed=1", "train.init_seed=0", "train.order_seed=0"])
    assert not torch.equal(vector(reference.model), vector(alike.model))


def test_a_step_can_be_replayed_from_a_snapshot():
    training, _ = trained([], steps=5)
    model = {name: value.clone() for name, value in training.model.state_dict().items()}
    momentum = training.optimizer.state_dict()
    with training.numerics():
        training.step(5)
        expected = vector(training.model)
        fresh = build(training.config)
        fresh.model.load_state_dict(model)
        fresh.optimizer.load_state_dict(momentum)
        # Other steps in between must not matter: there is no hidden state.
        fresh.update.batch_at(1000)
    assert not torch.equal(vector(fresh.model), expected)
    fresh, _ = trained([], steps=5)
    with fresh.numerics():
        fresh.update.batch_at(1000)
        fresh.step(5)
    assert torch.equal(vector(fresh.model), expected)


def test_dropout_is_replayed():
    overrides = [
        "model.name=torchvision:squeezenet1_1",
        "model.width=none",
        "data.name=synthetic",
        "data.samples=16",
        "data.image_size=33",
        "train.batch_size=8",
    ]
    first, _ = trained(overrides, steps=2)
    assert first.update.draws is not None
    torch.manual_seed(99)
    second, _ = trained(overrides, steps=2)
    assert torch.equal(vector(first.model), vector(second.model))


def test_gradients_are_left_for_the_recorder():
    training, _ = trained([], steps=1)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in training.model.parameters())
    assert all(p.is_contiguous() for p in training.model.parameters())


@pytest.mark.parametrize(("name", "lr"), [("sgd", 0.1), ("adamw", 0.01)])
def test_it_learns(name, lr):
    overrides = ["model.width=8", f"optim.name={name}", f"optim.lr={lr}"]
    training, results = trained(overrides, steps=120)
    losses = torch.stack([result.loss for result in results])
    assert losses[-10:].mean() < 0.5 * losses[:10].mean()
    assert training.evaluate().accuracy > 0.6


def test_bf16_computes_coarsely_and_keeps_float32_weights():
    fine, (exact, *_) = trained([], steps=2)
    coarse, (rounded, *_) = trained(["train.precision=bf16"], steps=2)
    assert not torch.equal(vector(fine.model), vector(coarse.model))
    assert all(p.dtype == torch.float32 for p in coarse.model.parameters())
    assert rounded.loss.item() == pytest.approx(exact.loss.item(), rel=0.05)


def test_evaluation_equals_one_image_at_a_time_and_changes_nothing():
    training, _ = trained(["eval.batch_size=100"])
    state = {name: value.clone() for name, value in training.model.state_dict().items()}
    evaluation = training.evaluate()
    assert training.model.training
    for name, value in training.model.state_dict().items():
        assert torch.equal(value, state[name])
    data = training.problem.train.task.data
    training.model.eval()
    losses, right = [], []
    with torch.no_grad():
        for image, label in zip(data.test, data.test_labels, strict=True):
            logits = training.model(data.normalise(image[None]))[0].double()
            losses.append(float(torch.logsumexp(logits, 0) - logits[label]))
            right.append(int(logits.argmax()) == int(label))
    assert evaluation.loss == pytest.approx(np.mean(losses), rel=1e-4)
    assert evaluation.accuracy == pytest.approx(np.mean(right))


def test_a_last_batch_of_one_that_batch_norm_refuses_is_found_before_training():
    # On 8x8 images ResNet-18 ends at one pixel, of which one image has no variance.
    with pytest.raises(ConfigError, match=r"1 images of 1 x 8 x 8.*train\.batch_size"):
        build(load_config(overrides=["model.name=resnet18", "train.batch_size=1436"]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none():
    with pytest.raises(ConfigError, match=r"train\.device='cuda'"):
        build(load_config(overrides=["train.device=cuda"]))
