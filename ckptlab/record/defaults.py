"""Defaults of a recording, for the Recorder and for the settings of the built-in training."""

from __future__ import annotations

ARRAYS: tuple[str, ...] = ("weights", "gradients")
"""Large arrays that can be recorded; ``weights`` always are."""

STEPS = "0:"
CODEC = "dense"
AUTO = "auto"
"""Stands for the densest codec that keeps up with the training."""

MEMORY = "1GiB"
FLUSH_SECONDS = 60.0
SYNC_SECONDS = 10.0
OUTAGE_SECONDS = 600.0

BUDGET = 0.03
"""Share of a step's time that compression may cost where it takes it from training."""

TOGETHER = 8
"""Trainings at once on a GPU, which a small network alone leaves mostly idle."""
