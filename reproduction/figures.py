"""Name the studies that are run, in the order in which they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ckptlab.experiments.jobs.plan import ExperimentPlan
from ckptlab.experiments.plans.study_file import Study, load_study, planner

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "reproduction"
"""Committed results, a file a figure."""


@dataclass(frozen=True)
class Figure:
    """A study at one scale; `file` is below ``examples/``."""

    file: str
    scale: str
    title: str

    @property
    def name(self) -> str:
        """What its results are called."""
        return f"{Path(self.file).stem}-{self.scale}"

    @property
    def path(self) -> Path:
        """The study's file."""
        return ROOT / "examples" / self.file

    @property
    def study(self) -> str:
        """The study's file, from the root of the repository where it lies below."""
        path = self.path.resolve()
        return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name

    def load(self, overrides: tuple[str, ...] = ()) -> Study:
        """Read the study."""
        return load_study(self.path, self.scale, overrides)

    def plan(self, overrides: tuple[str, ...] = ()) -> ExperimentPlan:
        """Plan all of its jobs; one thread each."""
        study = self.load(overrides)
        plan = ExperimentPlan(title=study.summary, kind=study.kind)
        plan.attributes["study"] = study.model_dump(mode="json")
        planner(study)(plan, study, 1)
        return plan


FIGURES = (
    Figure("early_phase/fig1.toml", "cifar", "Figure 1: accuracy against density"),
    Figure("early_phase/fig3.toml", "cifar", "Figure 3: telemetry"),
    Figure("early_phase/fig2.toml", "cifar", "Figure 2: phases"),
    Figure("early_phase/fig1.toml", "cifar-controls", "Figure 1: random and reinitialised"),
    Figure("early_phase/fig4.toml", "cifar", "Figure 4: signs and magnitudes"),
    Figure("early_phase/fig5.toml", "cifar", "Figure 5: shuffles"),
    Figure("early_phase/fig6.toml", "cifar", "Figure 6: shuffles with signs kept"),
    Figure("early_phase/fig7.toml", "cifar", "Figure 7: noise"),
    Figure("early_phase/fig8.toml", "cifar", "Figure 8: effective standard deviation"),
    Figure("early_phase/fig3.toml", "early", "Figure 3: telemetry, width 16, whole images"),
    Figure("early_phase/fig2.toml", "early", "Figure 2: phases, width 16, whole images"),
    Figure("instability.toml", "cifar", "Linear mode connectivity"),
    Figure("critical_period.toml", "cifar", "Critical period"),
    Figure("curvature.toml", "cifar", "Tiny subspace and Fisher trace"),
    Figure("early_phase/fig9.toml", "cifar", "Figure 9: pre-training, dense"),
    Figure("early_phase/fig9.toml", "cifar-short", "Figure 9: pre-training for 500 steps"),
    Figure("early_phase/fig10.toml", "cifar", "Figure 10: pre-training, sparse"),
)
"""Studies; jobs that two of them need are done once."""

_PILOT = "../reproduction/pilots/imp.toml"

PILOTS = (
    Figure(_PILOT, "2000-steps", "width 8, 16 × 16, 2,000 steps, iterative to 13.4 %"),
    Figure(_PILOT, "8000-steps", "width 8, 16 × 16, 8,000 steps, iterative to 13.4 %"),
)
"""Studies that look for a setting; run by name alone."""
