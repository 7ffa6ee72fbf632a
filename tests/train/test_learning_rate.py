import pytest
import torch

from ckptlab.train.learning_rate import LearningRate

STEPS = 40


def rates_of(make_scheduler, lr=0.3):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make_scheduler(optimizer)
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("settings", "make_scheduler"),
    [
        (
            {"schedule": "multistep", "milestones": (10, 25), "gamma": 0.2},
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [10, 25], 0.2),
        ),
        (
            {"schedule": "cosine"},
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS),
        ),
        (
            {"schedule": "constant", "warmup": 7},
            lambda o: torch.optim.lr_scheduler.LinearLR(o, 1 / 7, total_iters=6),
        ),
        (
            {"schedule": "multistep", "milestones": (10,), "warmup": 4},
            lambda o: torch.optim.lr_scheduler.ChainedScheduler(
                [
                    torch.optim.lr_scheduler.LinearLR(o, 1 / 4, total_iters=3),
                    torch.optim.lr_scheduler.MultiStepLR(o, [10], 0.1),
                ]
            ),
        ),
    ],
)
def test_equals_the_scheduler_of_torch(settings, make_scheduler):
    rate = LearningRate(base=0.3, steps=STEPS, **settings)
    assert [rate(k) for k in range(STEPS)] == pytest.approx(rates_of(make_scheduler), abs=1e-12)


def test_cosine_starts_after_the_warm_up_and_ends_at_nothing():
    rate = LearningRate(base=1.0, schedule="cosine", steps=STEPS, warmup=10)
    assert rate(9) == rate(10) == 1.0
    assert rate(25) == pytest.approx(0.5)
    assert rate(STEPS) == pytest.approx(0.0)


def test_a_milestone_counts_from_its_own_step():
    rate = LearningRate(base=1.0, schedule="multistep", steps=STEPS, milestones=(20, 5))
    assert [rate(4), rate(5), rate(19), rate(20)] == pytest.approx([1, 0.1, 0.1, 0.01])
