import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ckptlab.train.tasks.registry import TURNS
from ckptlab.train.tasks.rotation import rotation, turned
from ckptlab.train.tasks.task import Batch
from tests.train.tasks.samples import synthetic, training


def images_and_turns(batch, channels, side, seed):
    generator = np.random.default_rng(seed)
    # All pixels differ, so that a wrong turn cannot look right.
    count = batch * channels * side * side
    images = generator.permutation(count).reshape(batch, side, side, channels).astype(np.float32)
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(
        generator.integers(0, 4, batch)
    )


sizes = {
    "batch": st.integers(1, 9),
    "channels": st.sampled_from([1, 3]),
    "side": st.integers(1, 9),
    "seed": st.integers(0, 2**32),
}


@given(**sizes)
def test_equals_one_image_at_a_time(batch, channels, side, seed):
    images, turns = images_and_turns(batch, channels, side, seed)
    out = turned(images, turns)
    for image, turn, found in zip(images, turns, out, strict=True):
        assert torch.equal(found, torch.rot90(image, int(turn), dims=(1, 2)))
    assert out.is_contiguous(memory_format=torch.channels_last)


@given(**sizes)
def test_turns_are_exact(batch, channels, side, seed):
    images, turns = images_and_turns(batch, channels, side, seed)
    out = turned(images, turns)
    assert torch.equal(out.flatten(2).sort().values, images.flatten(2).sort().values)
    assert torch.equal(turned(out, (4 - turns) % 4), images)
    once = torch.ones_like(turns)
    assert torch.equal(turned(turned(turned(turned(images, once), once), once), once), images)


def test_the_first_turn_is_counter_clockwise():
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2)
    assert turned(image, torch.tensor([1]))[0, 0].tolist() == [[2.0, 4.0], [1.0, 3.0]]
    assert TURNS == ("0", "90", "180", "270")


def test_images_are_turned_after_augmentation_by_what_must_be_answered():
    plain, turning = training(), training("task.name=rotation")
    assert tuple(turning.problem.answers) == TURNS
    turns = []
    for step in range(20):
        expected, found = plain.update.batch_at(step), turning.update.batch_at(step)
        for image, turn, augmented in zip(
            found.inputs, found.targets, expected.inputs, strict=True
        ):
            assert torch.equal(torch.rot90(image, -int(turn), dims=(1, 2)), augmented)
        turns += found.targets.tolist()
    assert set(turns) == {0, 1, 2, 3}


def drawn(index, step, seed=0):
    batch = Batch(torch.zeros(len(index), 1, 1, 1), torch.full((len(index),), 9), index)
    task = rotation(synthetic(), seed)
    return (task.test(batch) if step is None else task.train(batch, step)).labels


def test_turns_are_uniform_and_independent_between_steps_seeds_and_the_test():
    index = torch.arange(40_000)
    first = drawn(index, 0).numpy()
    for sample in (first, drawn(index, None).numpy()):
        assert stats.chisquare(np.bincount(sample, minlength=4)).pvalue > 1e-3
    for other in (drawn(index, 1), drawn(index, 0, seed=1), drawn(index, None)):
        table = np.zeros((4, 4), int)
        np.add.at(table, (first, other.numpy()), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-3


@given(
    index=st.lists(st.integers(0, 10**6), min_size=1, max_size=20),
    step=st.none() | st.integers(0, 10**6),
)
def test_a_turn_belongs_to_the_sample_not_to_its_place(index, step):
    together = drawn(torch.tensor(index), step)
    alone = [int(drawn(torch.tensor([sample]), step)) for sample in index]
    assert together.tolist() == alone


def test_test_images_are_sharp_unaugmented_and_turned_by_one_turn_each():
    for name in ("rotation", "blur-rotation"):
        task = training(f"task.name={name}").problem.train.task
        index = torch.arange(17)
        images = task.data.normalise(task.data.test[index])
        batches = [
            task.test(Batch(images[part], task.data.test_labels[part], part))
            for part in index.split(5)
        ]
        turns = torch.cat([batch.labels for batch in batches])
        found = torch.cat([batch.images for batch in batches])
        assert set(turns.tolist()) == {0, 1, 2, 3}
        for image, turn, before in zip(found, turns, images, strict=True):
            assert torch.equal(image, torch.rot90(before, int(turn), dims=(1, 2)))


@pytest.mark.parametrize("key", ["train.order_seed", "train.augment_seed", "train.init_seed"])
def test_only_its_own_seed_decides_the_turns(key):
    index = torch.arange(70)
    runs = [training("task.name=rotation", f"{key}={seed}") for seed in (0, 1)]
    one, other = (
        task.train(Batch(task.data.normalise(task.data.train), index, index), 3).labels
        for task in (run.problem.train.task for run in runs)
    )
    assert torch.equal(one, other)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_same_on_cuda():
    images, turns = images_and_turns(9, 3, 8, 0)
    assert torch.equal(turned(images.cuda(), turns.cuda()).cpu(), turned(images, turns))
