"""What is promised, and whether it was measured: the first table of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """One answer that was promised.

    Parameters
    ----------
    question : str
        What was asked.
    wanted : str
        What is to be reached.
    measured : str
        What was.
    settings : str
        Codec, precision, determinism, or whatever it depends on.
    """

    question: str
    wanted: str
    measured: str
    settings: str


ON_A_GPU = (
    Target("wall time, recording every step against not, CUDA-graph step", "<= 1.05", "", ""),
    Target("training step on a GPU against the plain loop, one run", ">= 8", "", ""),
    Target("training steps on a GPU against the plain loop, 16 replicas together", ">= 20", "", ""),
)
"""Asked of one NVIDIA data-centre GPU."""


def promises(results: list[Mapping[str, Any]]) -> list[str]:
    """Return the table of what was promised and measured.

    Parameters
    ----------
    results : list of mapping
        The content of every machine's file.

    Returns
    -------
    list of str
        Lines of Markdown.
    """
    rows = []
    measured = set()
    for held in results:
        for name, result in held.items():
            here = result["machine"]
            hardware = here["gpu"] or f"{here['cpu']}, {here['cores']} cores"
            for target in result.get("targets", ()):
                measured.add(target["question"])
                cells = [target[key] for key in ("question", "wanted", "measured", "settings")]
                rows.append([*cells, f"{hardware}; `{name}`"])
    rows += [
        [t.question, t.wanted, "not measured", "", "no GPU at hand"]
        for t in ON_A_GPU
        if t.question not in measured
    ]
    return [
        "| question | wanted | measured | settings | where |",
        "|---|---|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]
