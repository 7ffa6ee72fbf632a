"""Record what the Trainer of Hugging Face's transformers trains."""

from __future__ import annotations

from typing import Any

import torch

from ckptlab.callbacks.recording import MeanLoss, open_recorder
from ckptlab.extras import require
from ckptlab.record.recorder import Recorder

_TrainerCallback: Any = require("transformers", "the callback for transformers").TrainerCallback


class RecorderCallback(_TrainerCallback):
    """Records every update of a ``transformers.Trainer``, not its micro-batches.

    Loss is that of the update's batch, evaluations are the Trainer's. Before the Trainer saves a
    checkpoint, what was recorded is committed; ``train(resume_from_checkpoint=…)`` then goes on
    with the run at the checkpoint's step.

    Parameters
    ----------
    path : str, path-like or Storage
        Where the run is written.
    **options : object
        As `Recorder` takes them. With ``resume="auto"``, a training that begins anew replaces what
        an earlier one recorded after its first state.

    Examples
    --------
    >>> trainer = Trainer(  # doctest: +SKIP
    ...     model, arguments, train_dataset=data, callbacks=[RecorderCallback("run.zarr")]
    ... )
    """

    def __init__(self, path: Any, **options: Any) -> None:
        self._path, self._options = path, options
        self._recorder: Recorder | None = None
        self._loss = MeanLoss()
        self._scaled = False
        self._hook: Any = None

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **given: Any
    ) -> None:
        """Open the run at the step that training begins at."""
        options = {"total_steps": state.max_steps, **self._options}
        optimizer = given.get("optimizer")
        self._recorder = open_recorder(self._path, model, optimizer, state.global_step, options)
        self._hook = model.register_forward_hook(
            torch.compiler.disable(self._note), with_kwargs=True
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Record an update; commit it before a checkpoint is saved."""
        if self._recorder is not None:
            # A loss over the items of the whole batch is a sum over micro-batches already.
            self._recorder.step(loss=self._loss.take(mean=not self._scaled))
            self._flush(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Commit what is recorded before a checkpoint is saved."""
        self._flush(control)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any
    ) -> None:
        """Add an evaluation that the Trainer made while it trains."""
        if self._recorder is not None and metrics:
            found = (metrics.get(f"eval_{name}") for name in ("loss", "accuracy"))
            self._recorder.evaluate(**dict(zip(("loss", "accuracy"), found, strict=True)))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the run."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            self._hook.remove()
            recorder.close()

    def _flush(self, control: Any) -> None:
        if self._recorder is not None and control.should_save:
            self._recorder.flush()

    def _note(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if module.training:
            self._scaled = kwargs.get("num_items_in_batch") is not None
            self._loss.add(output.get("loss") if hasattr(output, "get") else None)
