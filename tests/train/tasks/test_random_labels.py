import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ckptlab.train.tasks.random_labels import random_labels
from ckptlab.train.tasks.task import Batch
from tests.train.tasks.samples import synthetic, training


def labels_of(data, step=0, seed=0, index=None):
    index = torch.arange(len(data.train)) if index is None else index
    task = random_labels(data, seed)
    batch = Batch(torch.zeros(len(index), 1, 1, 1), data.train_labels[index], index)
    return task.train(batch, step).labels


def test_labels_are_uniform_and_say_nothing_of_the_true_ones():
    data = synthetic(samples=30_000, size=1, channels=1, classes=7)
    labels = labels_of(data).numpy()
    assert stats.chisquare(np.bincount(labels, minlength=7)).pvalue > 1e-3
    for other in (data.train_labels, labels_of(data, seed=1)):
        table = np.zeros((7, 7), int)
        np.add.at(table, (labels, other.numpy()), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-3


@given(
    steps=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
    index=st.lists(st.integers(0, 63), min_size=1, max_size=20),
)
def test_a_sample_has_one_label_for_the_whole_run(steps, index):
    data = synthetic()
    everything = labels_of(data, steps[0])
    assert torch.equal(labels_of(data, steps[1], index=torch.tensor(index)), everything[index])


def test_only_training_labels_change_and_only_by_their_own_seed():
    plain = training()
    seen = {}
    for overrides in ([], ["train.order_seed=5", "train.augment_seed=5", "train.init_seed=5"]):
        run = training("task.name=random-labels", *overrides)
        for step in range(18):
            batch = run.update.batch_at(step)
            if not overrides:
                assert torch.equal(batch.inputs, plain.update.batch_at(step).inputs)
            index = run.update.order.batch_at(step).tolist()
            for sample, label in zip(index, batch.targets.tolist(), strict=True):
                assert seen.setdefault(sample, label) == label
    assert len(seen) == 70
    other = training("task.name=random-labels", "train.task_seed=1")
    index = other.update.order.batch_at(0).tolist()
    assert other.update.batch_at(0).targets.tolist() != [seen[sample] for sample in index]
    data = plain.problem.train.task.data
    test = Batch(data.test, data.test_labels, torch.arange(len(data.test)))
    assert run.problem.train.task.test(test) is test


def test_a_network_learns_them_by_heart_and_nothing_of_the_true_ones():
    large = ["data.samples=400", "data.image_size=4", "model.width=100", "optim.lr=0.02"]
    fixed = ["data.flip=false", "data.crop=0", "train.batch_size=40", "train.steps=600"]
    by_heart = training("task.name=random-labels", *large, *fixed)
    plain = training(*large, *fixed)
    for run in (by_heart, plain):
        accuracy = [run.step(step).accuracy for step in range(600)]
        assert torch.stack(accuracy[-10:]).mean() > 0.9
    assert plain.evaluate().accuracy > 0.9
    assert by_heart.evaluate().accuracy < 0.3
