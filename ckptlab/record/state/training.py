"""What trains a model: its optimizers, and the state that a user attached to the recording."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

from ckptlab.errors import ConfigError
from ckptlab.record.state.attached import Attached
from ckptlab.record.state.model_tensors import Capture
from ckptlab.record.state.optimizer import (
    Optimizers,
    OptimizerState,
    copy_states,
    read_row,
    recorded_optimizers,
    restore_states,
)
from ckptlab.store.format.block import Anchor


@dataclass
class Training:
    """Optimizers by name, where one alone has an empty name, and attached objects."""

    optimizers: Optimizers
    attached: Attached = field(default_factory=Attached)

    def kinds(self) -> str:
        """Name the optimizers' classes, such as ``SGD`` or ``generator: Adam, critic: SGD``."""
        kinds = {name: type(one).__name__ for name, one in self.optimizers.items()}
        return ", ".join(f"{n}: {kind}" if n else kind for n, kind in kinds.items()) or "none"

    def copy(self, captured: Capture, step: int) -> OptimizerState:
        """Copy all states, as they are after `step`."""
        return copy_states(self.optimizers, captured, step, self.attached)

    def restore(self, captured: Capture, anchor: Anchor | None) -> None:
        """Set all to an anchor; no state may be dropped or made up."""
        if anchor is None:
            return
        header, tensors = read_row(anchor.row) if anchor.row else ({}, {})
        stored = recorded_optimizers(header)
        if stored and not self.optimizers:
            raise ConfigError(
                "the run holds the state of its optimizer, which would be lost; give the optimizer "
                "it was recorded with"
            )
        if self.optimizers and not stored:
            warnings.warn(
                "the run was recorded without its optimizer, which starts without a state",
                stacklevel=7,
            )
        restore_states(self.optimizers, captured, anchor)
        self.attached.restore(header.get("attached", {}), tensors)
