"""Record what a Trainer of Lightning trains, of ``lightning`` or ``pytorch_lightning``."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

from ckptlab.callbacks.recording import MeanLoss, open_recorder
from ckptlab.extras import require
from ckptlab.record.recorder import Recorder


def _base() -> Any:
    """Return the base of callbacks of the package in use; a trainer of one refuses the other's."""
    other = "pytorch_lightning" in sys.modules or find_spec("lightning") is None
    package = "pytorch_lightning" if other else "lightning.pytorch"
    return require(package, "the callback for Lightning").Callback


_Callback: Any = _base()


class RecorderCallback(_Callback):
    """Records every update of a Lightning ``Trainer``, not its micro-batches.

    Also under manual optimization and with several optimizers: a batch in which any of them steps
    counts once. Before a checkpoint is saved, what was recorded is committed;
    ``fit(ckpt_path=…)`` then goes on with the run at the checkpoint's step.

    Parameters
    ----------
    path : str, path-like or Storage
        Where the run is written.
    loss, accuracy : str
        Names under which the module logs what is recorded as evaluations.
    **options : object
        As `Recorder` takes them. With ``resume="auto"``, a training that begins anew replaces what
        an earlier one recorded after its first state.

    Examples
    --------
    >>> trainer = Trainer(callbacks=[RecorderCallback("run.zarr")])  # doctest: +SKIP
    """

    def __init__(
        self, path: Any, *, loss: str = "val_loss", accuracy: str = "val_acc", **options: Any
    ) -> None:
        self._path, self._options = path, options
        self._evaluated = {"loss": loss, "accuracy": accuracy}
        self._recorder: Recorder | None = None
        self._loss = MeanLoss()
        self._restored: int | None = None
        self._seen = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the step, which Lightning's own counter is not where there are two optimizers."""
        return {"step": 0 if self._recorder is None else self._recorder.step_number}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the step of a checkpoint."""
        self._restored = state_dict["step"]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the run at the step that training begins at."""
        self._seen = trainer.global_step
        step = self._seen if self._restored is None else self._restored
        # Lightning stands a mock in for an optimizer that a module does not configure.
        optimizers = [o for o in trainer.optimizers if type(o).__name__ != "_MockOptimizer"]
        self._restored = None
        given = optimizers[0] if len(optimizers) == 1 else optimizers
        self._recorder = open_recorder(self._path, pl_module, given, step, self._options)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record an update if the batch ended with one."""
        if self._recorder is None:
            return
        self._loss.add(outputs.get("loss") if isinstance(outputs, dict) else outputs)
        # The counter alone sees an update that a scaler skips, the hooks one that bypasses it.
        if self._recorder.updated or trainer.global_step != self._seen:
            self._seen = trainer.global_step
            # Lightning has divided each by the micro-batches of an update.
            self._recorder.step(loss=self._loss.take(mean=False))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Add what the module logged as an evaluation."""
        if self._recorder is not None and not trainer.sanity_checking:
            logged = trainer.callback_metrics
            found = {name: logged.get(key) for name, key in self._evaluated.items()}
            if any(value is not None for value in found.values()):
                self._recorder.evaluate(**found)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Commit what is recorded, so that it reaches the checkpoint."""
        if self._recorder is not None:
            self._recorder.flush()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Commit what is recorded; the run is interrupted."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.__exit__(type(exception), exception, None)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the run."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.close()
