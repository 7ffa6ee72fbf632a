"""Run what is missing of the reproduction; what is done is told by the committed rows."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from ckptlab import __version__
from ckptlab.errors import ConfigError
from ckptlab.experiments.jobs.folder import Folder
from ckptlab.experiments.jobs.job import MeasureJob, TrainJob
from ckptlab.experiments.jobs.plan import Cell, ExperimentPlan
from ckptlab.experiments.jobs.scheduler import Outcome, read_outcome
from ckptlab.experiments.results.gather import final_numbers, open_cell
from ckptlab.experiments.run_experiment import Workforce, run_experiment
from ckptlab.train.config import change, config_hash
from reproduction import rows
from reproduction.figures import FIGURES, PILOTS, RESULTS, ROOT, Figure


def run(
    only: Sequence[str] = (),
    *,
    folder: Path,
    workers: int = 2,
    results: Path = RESULTS,
    figures: Sequence[Figure] = FIGURES,
    overrides: tuple[str, ...] = (),
) -> int:
    """Run the jobs behind missing rows; return how many jobs failed.

    Rows are written as jobs end. An interrupted job resumes where it was as long as `folder` is
    there, which is large and not committed.
    """
    failed = 0
    named = [f for f in (*figures, *PILOTS) if f.name in only or Path(f.file).stem in only]
    chosen = named if only else list(figures)
    if not chosen:
        names = ", ".join(f.name for f in (*figures, *PILOTS))
        raise ConfigError(f"there is no figure {' '.join(only)!r}; accepted: {names}")
    # All are planned first, so that files say what is to come.
    plans = [(figure, figure.plan(overrides)) for figure in chosen]
    store = Store(results)
    for figure, plan in plans:
        store.describe(figure, plan)
        store.copy_known(figure, plan)
    for figure, plan in plans:
        left = what_is_left(plan, store.copy_known(figure, plan))
        print(f"{figure.name}: {len(left.cells)} of {len(plan.cells)} cells to do", flush=True)
        if not left.cells:
            continue
        writer = _Writer(store, figure, left, Folder(folder))
        outcome, _ = run_experiment(
            left, Folder(folder), Workforce(workers=workers), on_change=writer
        )
        writer(outcome)
        failed += len(outcome.failed)
        for key, why in outcome.failed.items():
            print(f"Error: {figure.name}: {key}: {' '.join(why.split())}", file=sys.stderr)
    return failed


def collect(
    folder: Path,
    results: Path = RESULTS,
    figures: Sequence[Figure] = FIGURES,
    overrides: tuple[str, ...] = (),
) -> int:
    """Write rows of all jobs in a folder, also while it is worked on; return how many are new."""
    store, added = Store(results), 0
    for figure in figures:
        plan = figure.plan(overrides)
        store.describe(figure, plan)
        place = Folder(folder)
        added += _Writer(store, figure, plan, place)(read_outcome(plan, place))
    return added


def what_is_left(plan: ExperimentPlan, known: set[str]) -> ExperimentPlan:
    """Return the plan of the cells whose jobs are not known, with the jobs that they need."""
    cells = [cell for cell in plan.cells if cell.run not in known]
    wanted = {cell.run for cell in cells}
    for key in reversed(plan.jobs):
        if key in wanted:
            wanted |= plan.needs(key)
    left = ExperimentPlan(title=plan.title, kind=plan.kind, attributes=plan.attributes)
    left.jobs.update({key: job for key, job in plan.jobs.items() if key in wanted})
    for cell in cells:
        left.put(cell.run, **cell.at)
    return left


class Store:
    """The files of results, and what is known of each job from all of them."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.source = source()
        # By job: the row, and where it comes from.
        self.known: dict[str, tuple[dict[str, Any], dict[str, str]]] = {}
        for path in sorted(results.glob("*-*.json")):
            held = rows.read(path)
            for row in held["rows"]:
                self.known[row["job"]] = (row, held["sources"][row["source"]])

    def path(self, figure: Figure) -> Path:
        """Where the rows of a figure are."""
        return self.results / f"{figure.name}.json"

    def describe(self, figure: Figure, plan: ExperimentPlan) -> None:
        """Say in a figure's file what its study is; rows that it no longer asks for leave."""
        held = rows.read(self.path(figure))
        config = next(job.config for job in plan.jobs.values() if isinstance(job, TrainJob))
        if "root" in type(config.data).model_fields:
            config = change(config, data={"root": None})
        settings = config.model_dump(mode="json", include={"model", "data", "task", "optim"})
        settings["data"].pop("root", None)
        train = ("steps", "batch_size", "seed", "precision", "threads")
        settings["train"] = {key: getattr(config.train, key) for key in train}
        head = {
            "title": figure.title,
            "study": figure.study,
            "scale": figure.scale,
            "kind": plan.kind,
            "config_hash": config_hash(config),
            "first_training": settings,
            "cells": len(plan.cells),
            "jobs": len(plan.jobs),
            "dims": plan.dims,
            "sources": held["sources"],
            "rows": [row for row in held["rows"] if row["job"] in plan.jobs],
        }
        if head != held:
            rows.write(self.path(figure), head)

    def copy_known(self, figure: Figure, plan: ExperimentPlan) -> set[str]:
        """Take rows of jobs that other figures share; return which of its jobs are known."""
        held, added = rows.read(self.path(figure)), 0
        for cell in plan.cells:
            if cell.run in self.known:
                row, origin = self.known[cell.run]
                body = {k: v for k, v in row.items() if k not in ("at", "source")}
                added += rows.merge(held, [{**body, "at": dict(cell.at)}], origin)
        if added:
            rows.write(self.path(figure), held)
        return {cell.run for cell in plan.cells if cell.run in self.known}

    def add(self, figure: Figure, found: Sequence[dict[str, Any]]) -> int:
        """Add rows that this machine has computed."""
        held = rows.read(self.path(figure))
        added = rows.merge(held, found, self.source)
        if added:
            rows.write(self.path(figure), held)
            self.known |= {row["job"]: (row, self.source) for row in found}
        return added


class _Writer:
    """Writes rows of jobs as they end."""

    def __init__(self, store: Store, figure: Figure, plan: ExperimentPlan, folder: Folder) -> None:
        self._store, self._figure, self._plan, self._folder = store, figure, plan, folder
        self._written: set[str] = set()

    def __call__(self, outcome: Outcome) -> int:
        cells = [c for c in self._plan.cells if c.run in outcome.done - self._written]
        added = self._store.add(self._figure, [row_of(self._plan, self._folder, c) for c in cells])
        self._written |= {c.run for c in cells}
        if added:
            told = f"{len(outcome.done)} of {len(self._plan.jobs)} jobs"
            print(f"{self._figure.name}: {added} rows more, {told}", flush=True)
        return added


def row_of(plan: ExperimentPlan, folder: Folder, cell: Cell) -> dict[str, Any]:
    """Read the result of a job that is done."""
    job = plan.jobs[cell.run]
    row: dict[str, Any] = {"job": cell.run, "at": dict(cell.at)}
    if isinstance(job, MeasureJob):
        trained = plan.jobs[job.run]
        with xr.open_zarr(folder.result(cell.run, job), chunks=None, consolidated=True) as found:
            values: Mapping[str, Any] = rows.reduced(found.load())
        row |= {"metric": job.metric, "values": values}
    else:
        trained = job
        numbers = final_numbers(open_cell(plan, folder, cell.run))
        row |= {k: rounded for k, v in numbers.items() if (rounded := rows.rounded(v)) is not None}
    if isinstance(trained, TrainJob):
        row["seed"] = trained.config.train.seed
    return row


def source() -> dict[str, str]:
    """Say what computes here: commit, machine and versions."""
    commit = _git("describe", "--always", "--abbrev=10", "--exclude=*")
    # What computes, not the rows that it writes.
    changed = _git("status", "--porcelain", "--", "ckptlab", "examples", "reproduction")
    told = f"{commit}-dirty" if commit and changed else commit
    return {
        "commit": os.environ.get("REPRODUCTION_COMMIT") or told or "unknown",
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "ckptlab": __version__,
    }


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return next(
            line.split(":")[1].strip() for line in text.splitlines() if "model name" in line
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
