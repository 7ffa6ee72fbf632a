"""The callback in a real Trainer: accumulation, two optimizers, checkpoints and exceptions."""

import warnings

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch
from torch import nn

from ckptlab.callbacks.lightning import RecorderCallback
from ckptlab.errors import ConfigError
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from tests.record.loops import Oops, vector


class Automatic(lightning.LightningModule):
    def __init__(self, optimizer=True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        self.optimizer = optimizer

    def loss(self, batch):
        return (self.net(batch) - batch.sum(1, keepdim=True)).square().mean()

    def training_step(self, batch, index):
        return self.loss(batch)

    def validation_step(self, batch, index):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters(), lr=0.01) if self.optimizer else None


class Manual(Automatic):
    """Two optimizers, of which the second steps every other batch; nobody steps at every third."""

    def __init__(self, *, bypass=False) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.bypass = bypass

    def training_step(self, batch, index):
        optimizers = self.optimizers(use_pl_optimizer=not self.bypass)
        for number, optimizer in enumerate(optimizers):
            if index % 3 == 2 or (number and index % 2):
                continue
            optimizer.zero_grad()
            loss = self.loss(batch)
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self):
        parts = self.net[0].parameters(), self.net[2].parameters()
        return [torch.optim.Adam(p, lr=lr) for p, lr in zip(parts, (0.01, 0.02), strict=True)]


class Witness(lightning.Callback):
    """An independent copy of the parameters whenever they changed, and of the losses."""

    def __init__(self, stop=None) -> None:
        self.seen, self.stop, self.batches = [], stop, 0

    def on_train_start(self, trainer, module):
        self.seen.append(vector(module))

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.batches += 1
        now = vector(module)
        if not np.array_equal(now, self.seen[-1]):
            self.seen.append(now)
        if self.batches == self.stop:
            raise Oops


def fit(folder, module, *callbacks, ckpt_path=None, **options):
    data = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    saves = lightning.callbacks.ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
        callbacks=[*callbacks, saves],
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about workers and the like
        trainer.fit(
            module,
            torch.utils.data.DataLoader(data, 2),
            torch.utils.data.DataLoader(data[:4], 4),
            ckpt_path=ckpt_path,
        )
    return trainer


def assert_recorded(path, seen):
    stored = open_store(path)
    assert len(stored.steps) == len(seen)
    for step, expected in zip(stored.steps, seen, strict=True):
        assert np.array_equal(stored.snapshot(int(step)), expected)
    return stored


def test_updates_are_recorded_not_micro_batches(tmp_path):
    witness, path = Witness(), tmp_path / "run.zarr"
    callback = RecorderCallback(path, fsync=False)
    trainer = fit(tmp_path, Automatic(), callback, witness, accumulate_grad_batches=3)
    stored = assert_recorded(path, witness.seen)
    assert stored.state == "complete"
    assert stored.steps.tolist() == [0, 1, 2, 3, 4]
    data = torch.randn(24, 3, generator=torch.Generator().manual_seed(0)).split(2)
    first = Automatic()
    losses = [float(first.loss(batch).detach()) for batch in data[:3]]
    assert stored.small("loss")[1] == pytest.approx(np.mean(losses))
    assert stored.small("eval_step").tolist() == [4]
    assert stored.small("eval_loss") == pytest.approx(float(trainer.callback_metrics["val_loss"]))
    assert verify(path, deep=True).ok


@pytest.mark.parametrize("bypass", [False, True])
def test_manual_optimization_with_two_optimizers_counts_a_batch_once(tmp_path, bypass):
    witness, path = Witness(), tmp_path / "run.zarr"
    fit(tmp_path, Manual(bypass=bypass), RecorderCallback(path, fsync=False), witness)
    stored = assert_recorded(path, witness.seen)
    assert stored.steps.tolist() == list(range(9))  # 12 batches, 4 of them without an update
    assert stored.small("skipped_1")[1:].tolist() == [0, 1, 1, 0, 0, 1, 1, 0]
    assert stored.small("lr_1")[1] == 0.02


@pytest.mark.parametrize("kind", [Automatic, Manual])
@pytest.mark.parametrize("stop", [4, 7])
def test_training_goes_on_from_a_checkpoint_at_its_step(tmp_path, kind, stop):
    """Lightning begins the data anew; what it trains from there on is what is recorded."""
    path, first, then = tmp_path / "run.zarr", Witness(stop), Witness()
    with pytest.raises(Oops):
        fit(tmp_path, kind(), RecorderCallback(path, fsync=False), first)
    assert open_store(path).state == "interrupted"
    saved = sorted(tmp_path.glob("*.ckpt"), key=lambda p: p.stat().st_mtime_ns)
    fit(tmp_path, kind(), RecorderCallback(path, fsync=False), then, ckpt_path=saved[-2])
    (begun,) = (k for k, seen in enumerate(first.seen) if np.array_equal(seen, then.seen[0]))
    assert 0 < begun < len(first.seen) - 1
    stored = assert_recorded(path, first.seen[:begun] + then.seen)
    assert stored.state == "complete"
    assert verify(path, deep=True).ok


def test_a_module_without_an_optimizer_is_refused(tmp_path):
    callback = RecorderCallback(tmp_path / "run.zarr")
    with pytest.raises(ConfigError, match="the trainer has no optimizer"):
        fit(tmp_path, Automatic(optimizer=False), callback)
    assert not (tmp_path / "run.zarr").exists()
