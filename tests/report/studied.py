"""Tiny studies of every kind, planned and done as the command does, but in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ckptlab.experiments.jobs.folder import Folder
from ckptlab.experiments.jobs.job import Job, write_job
from ckptlab.experiments.jobs.plan import ExperimentPlan
from ckptlab.experiments.jobs.scheduler import read_outcome
from ckptlab.experiments.jobs.worker import JobContext, run_jobs
from ckptlab.experiments.plans.study_file import load_study, planner
from ckptlab.experiments.results.gather import write_results
from ckptlab.experiments.results.open import load_results
from ckptlab.report.page import write_page
from ckptlab.report.studies.page import study_page

SETTINGS = """
[config.model]
name = "mlp"
width = 16
[config.optim]
lr = 0.05
[config.train]
steps = 24
device = "cpu"
threads = 1
[config.record]
fsync = false
[config.eval]
steps = "0::8"
"""

STUDIES: dict[str, str] = {
    "imp": """
kind = "imp"
rewind = [0, 8]
levels = 2
pruning = ["imp", "random"]
""",
    "perturb": """
kind = "perturb"
rewind = [4, 8]
at_levels = [0, 1]
fraction = 0.5
perturbations = ["none", "sign:0,magnitude:k", "shuffle:layer", "noise:1.0", "reinit"]
""",
    "pretrain": """
kind = "pretrain"
tasks = ["supervised", "blur"]
lengths = [0, 8]
levels = 1
""",
    "connect": """
kind = "connect"
rewind = [0, 8]
at_levels = [0, 1]
options = { alphas = 5, samples = 64 }
""",
    "critical": """
kind = "critical"
deficit = { name = "blur", factor = 2 }
durations = [0, 4, 12]
clean = 12
""",
    "record": """
kind = "record"
metrics = ["telemetry", "timeline"]
""",
}
"""By kind; each has two replicates."""


def make_study(
    kind: str,
    folder: Path,
    *,
    summary: str = "A study",
    fails: Callable[[Job], str | None] = lambda _: None,
    only: int | None = None,
) -> Path:
    """Do a study.

    Parameters
    ----------
    kind : str
        Of `STUDIES`.
    folder : Path
        Where.
    summary : str
        Its title.
    fails : callable
        Says of a job what it fails of, if it does.
    only : int, optional
        So many jobs are done; all by default.

    Returns
    -------
    Path
        Its folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "study.toml"
    file.write_text(f"summary = '''{summary}'''\nreplicates = 2\n{STUDIES[kind]}{SETTINGS}")
    study = load_study(file)
    attributes = {"study": study.model_dump(mode="json"), "figure": study.figure}
    plan = ExperimentPlan(title=study.summary, kind=study.kind, attributes=attributes)
    planner(study)(plan, study, 1)
    held = Folder(folder)
    held.make()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for key, job in list(plan.jobs.items())[:only]:
        why = fails(job)
        if why is not None:
            held.write_failure(key, why)
        elif all(held.is_done(needed, plan.jobs[needed]) for needed in plan.needs(key)):
            place = JobContext(folder=str(folder), recordings=plan.recordings)
            (done,) = run_jobs([(key, write_job(job))], place)
            assert done.error is None, done.error
    torch.set_num_threads(before)
    write_results(plan, held, read_outcome(plan, held))
    return folder


def write_study_page(folder: Path) -> Path:
    """Write the page about a study as the command does."""
    page = study_page(load_results(folder), folder.name)
    return Path(write_page(page, str(folder / "page.html")))
