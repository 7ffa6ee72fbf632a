"""What a look at a series' health found: findings with their evidence, as text and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

_SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class HealthFinding:
    """One thing that is wrong with a series.

    Parameters
    ----------
    rule : str
        Which rule found it: ``identical``, ``repeated``, ``still``, ``outlier``, ``jump``,
        ``foreign``, ``not-finite``, ``zero-rows``, ``form``.
    steps : tuple of int
        The steps it is about.
    tensors : tuple of str
        The tensors; empty where it is the whole snapshot.
    evidence : str
        What was measured.
    """

    rule: str
    steps: tuple[int, ...]
    tensors: tuple[str, ...] = ()
    evidence: str = ""

    @property
    def where(self) -> str:
        """Steps and tensors, the first few of each."""
        named = ", ".join(self.tensors[:_SHOWN])
        if len(self.tensors) > _SHOWN:
            named += f" and {len(self.tensors) - _SHOWN} more tensors"
        return f"{format_steps(self.steps)}, {named or 'the whole snapshot'}"

    def __str__(self) -> str:
        return f"{self.rule}: {self.where}: {self.evidence}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """What `check_health` found.

    Parameters
    ----------
    path : str
        Of the run or the folder.
    steps, tensors : int
        How many were looked at.
    first_step, last_step : int
        The first and the last step.
    findings : tuple of HealthFinding
        What is wrong.
    """

    path: str
    steps: int
    tensors: int
    first_step: int
    last_step: int
    findings: tuple[HealthFinding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values, ``ok`` among them."""
        return {"ok": self.ok, **asdict(self)}

    def __str__(self) -> str:
        verdict = f"{len(self.findings)} found wrong" if self.findings else "nothing found wrong"
        span = f"{self.steps:,} snapshots, steps {self.first_step}..{self.last_step}"
        lines = [f"{self.path}: {verdict} in {span}, {self.tensors:,} tensors"]
        return "\n".join([*lines, *(f"  {finding}" for finding in self.findings)])


def format_steps(steps: tuple[int, ...]) -> str:
    """Write steps in a few words: all of them if they are few, else the ends."""
    if len(steps) == 1:
        return f"step {steps[0]}"
    if len(steps) <= 2 * _SHOWN:
        return f"steps {', '.join(map(str, steps))}"
    return f"steps {steps[0]}..{steps[-1]} ({len(steps)} of them)"
