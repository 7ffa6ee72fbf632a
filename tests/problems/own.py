"""Problems of a user's: regression, labels, a language, and everything that can be wrong."""

import random

import torch
from torch import nn

import ckptlab


def numbers(inputs: int = 4, outputs: int = 1, count: int = 40):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, inputs, generator=generator)
    y = torch.tanh(x @ torch.randn(inputs, outputs, generator=generator))
    return (x[: count // 2], y[: count // 2]), (x[count // 2 :], y[count // 2 :])


def net(inputs: int = 4, outputs: int = 1, hidden: int = 8):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs))


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def within(outputs, targets):
    """Whether an answer is near."""
    return (outputs - targets).abs().squeeze(1) < 0.1


def problem(**changed):
    train, test = numbers()
    given = {
        "model": net,
        "loss": nn.functional.mse_loss,
        "train": train,
        "test": test,
        "optimizer": sgd,
        "accuracy": within,
    }
    return ckptlab.Problem(**{**given, **changed})


def regression():
    """Fit a curve."""
    return problem()


def sine(hidden: int = 8):
    return problem(model=lambda: net(hidden=hidden))


def groups():
    """Two groups of parameters, each with a rate of its own."""

    def optimizer(parameters):
        first, rest = list(parameters)[:2], list(parameters)[2:]
        return torch.optim.SGD([{"params": first, "lr": 0.1}, {"params": rest, "lr": 0.01}])

    return problem(optimizer=optimizer)


def labels():
    (x, y), (u, v) = numbers(outputs=3)
    return ckptlab.Problem(
        model=lambda: net(outputs=3),
        loss=nn.functional.binary_cross_entropy_with_logits,
        train=(x, (y > 0).float()),
        test=(u, (v > 0).float()),
        optimizer=sgd,
        accuracy=lambda outputs, targets: (outputs > 0) == (targets > 0.5),
    )


class Letters(nn.Module):
    def __init__(self, symbols: int = 7):
        super().__init__()
        self.embed, self.head = nn.Embedding(symbols, 6), nn.Linear(6, symbols)
        self.drop = nn.Dropout(0.2)

    def forward(self, tokens):
        return self.head(self.drop(self.embed(tokens)))


def language():
    tokens = torch.arange(400).reshape(40, 10) * 3 % 7
    return ckptlab.Problem(
        model=Letters,
        loss=lambda outputs, targets: nn.functional.cross_entropy(outputs.transpose(1, 2), targets),
        train=(tokens[:30, :-1], tokens[:30, 1:]),
        test=(tokens[30:, :-1], tokens[30:, 1:]),
        optimizer=sgd,
    )


class Shifted:
    """Examples with an augmentation of their own, which depends on the step alone."""

    def __init__(self):
        self.x, self.y = numbers()[0]

    def __len__(self):
        return len(self.x)

    def take(self, index):
        return self.x[index], self.y[index]

    def batch(self, index, step):
        return self.x[index] + 0.01 * step, self.y[index]


def augmented():
    return problem(train=Shifted())


class Items(torch.utils.data.Dataset):
    def __init__(self):
        self.x, self.y = numbers()[0]

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


def items():
    return problem(train=Items())


# What cannot be used.


def no_module():
    return problem(model=lambda: 3)


def a_module():
    return problem(model=net())


def same_module():
    held = net()
    return problem(model=lambda: held)


def failing_model():
    return problem(model=lambda: net(inputs="four"))


def no_dataset():
    return problem(train=5)


def empty_dataset():
    return problem(test=(torch.zeros(0, 4), torch.zeros(0, 1)))


def no_pairs():
    return problem(train=[torch.zeros(4), torch.zeros(4), torch.zeros(4)])


def no_scalar():
    return problem(loss=lambda outputs, targets: (outputs - targets) ** 2)


def a_number():
    return problem(loss=lambda outputs, targets: float(((outputs - targets) ** 2).mean()))


def failing_loss():
    return problem(loss=lambda outputs, targets: outputs @ targets)


class Noisy(nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.inner, self.draw = net(), draw

    def forward(self, x):
        return self.inner(x) + self.draw()


def noisy():
    return problem(model=lambda: Noisy(random.random))


def noisy_evaluation():
    return problem(model=lambda: Noisy(lambda: torch.randn(1)))


def other_inputs():
    return problem(model=lambda: net(inputs=5))


def no_optimizer():
    return problem(optimizer=None)


def odd_optimizer():
    return problem(optimizer=lambda parameters: 0.1)


def no_problem():
    return 4


def raising():
    raise RuntimeError("no\ndata here")


# For the settings model, data, loss and optimizer one by one.


def load(count: int = 40):
    """Numbers and their targets."""
    return numbers(count=count)


def shaped(input_shape, hidden: int = 8):
    return net(inputs=input_shape[0], hidden=hidden)


def squared(outputs, targets):
    """Mean squared error."""
    return ((outputs - targets) ** 2).mean()
