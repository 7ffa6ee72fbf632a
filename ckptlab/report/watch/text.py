"""Describe a run that grows in one line, for terminals."""

from __future__ import annotations

from ckptlab.report.watch.feed import Feed

FACTS: tuple[tuple[str, str, str], ...] = (
    ("loss {:.4g}", "training", "loss"),
    ("acc {:.3f}", "training", "batch_accuracy"),
    ("test {:.3f}", "eval", "accuracy"),
    ("|w - w0| {:.3g}", "weights", "distance"),
    ("signs {:.2%}", "weights", "flips"),
    ("gradient {:.3g}", "gradient", "norm"),
    ("{:.1f} updates/s", "recording", "pace"),
    ("waited {:.1f} s", "recording", "stalled"),
)
"""What is told where it is known: its form, track and name."""


def describe(feed: Feed) -> str:
    """Return what a run holds so far."""
    status = feed.status
    of = f" of {status['total_steps']:,}" if status["total_steps"] else ""
    known = [(form, feed.latest(track, name)) for form, track, name in FACTS]
    facts = [form.format(value) for form, value in known if value is not None]
    phase = [status["phases"][-1][0]] if status["phases"] else []
    return "  ".join([f"{status['state']}: step {status['last_step']:,}{of}", *facts, *phase])
