"""Hash what the paper's experiments give on the digits, to compare two versions of ckptlab.

``python -m benchmarks.same_results FILE.json`` writes the hashes of small recordings, prunings,
perturbations, connectivity, pre-training, critical periods and metrics; where FILE exists, they
are compared with it instead. Hashes hold for one machine and one release of torch.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
import xxhash

import ckptlab
from ckptlab.experiments.jobs.folder import Folder
from ckptlab.experiments.jobs.job import TrainJob, write_job
from ckptlab.experiments.jobs.plan import ExperimentPlan
from ckptlab.experiments.jobs.scheduler import read_outcome
from ckptlab.experiments.jobs.worker import JobContext, run_jobs
from ckptlab.experiments.plans.connect import plan_connect
from ckptlab.experiments.plans.imp import Pruner, plan_imp, plan_pretrained
from ckptlab.experiments.plans.parent_run import recorded_parent
from ckptlab.experiments.plans.perturb import plan_perturb
from ckptlab.experiments.plans.study_file import load_study, planner
from ckptlab.experiments.results.gather import gather
from ckptlab.store.read.reader import open_store

COMMON = ["train.threads=1", "train.device=cpu", "train.batch_size=256", "record.fsync=false"]
NETWORKS = {
    "lenet": ["model.name=lenet", "train.steps=18"],
    "vgg": ["model.name=vgg11", "model.width=4", "train.steps=12", "optim.warmup=3"],
}
CRITERIA = ("imp", "one-shot", "random", "random-nested", "random-layers", "reinit")
KINDS = (
    "none",
    "sign:0,magnitude:k",
    "constant:fresh",
    "shuffle:filter,keep-signs",
    "shuffle:layer,initial-signs",
    "noise:0.5",
    "reinit",
)
METRICS: dict[str, dict[str, Any]] = {
    "telemetry": {},
    "evaluation": {"steps": "0::6"},
    "hessian-spectrum": {"steps": "0::6", "samples": 128},
    "fisher-trace": {"steps": "0::6", "samples": 128},
    "gradient-magnitude": {"full": True, "samples": 128},
}
STUDIES = {
    "pretrain": """kind = "pretrain"
tasks = ["random-labels", "rotation", {name = "blur", factor = 2}]
lengths = [0, 6]
levels = 1""",
    "critical": """kind = "critical"
deficit = {name = "blur", factor = 2}
durations = [0, 6]
clean = 6""",
    "imp": """kind = "imp"
rewind = [0, 6]
levels = 2
scope = "layer"
replicates = 2""",
    "connect": """kind = "connect"
rewind = [6]
at_levels = [0, 1]
options = {alphas = 5, samples = 256}""",
}


def digest(values: Any) -> str:
    """Hash an array with its type and shape."""
    array = np.ascontiguousarray(values)
    content = json.dumps(array.tolist()).encode() if array.dtype == object else array.tobytes()
    return xxhash.xxh3_64_hexdigest(content + repr((str(array.dtype), array.shape)).encode())


def of_dataset(found: xr.Dataset | xr.DataArray) -> dict[str, str]:
    """Hash every variable."""
    dataset = found if isinstance(found, xr.Dataset) else found.to_dataset(name="value")
    return {str(name): digest(dataset[name].values) for name in sorted(dataset.variables, key=str)}


def of_run(path: str | Path) -> dict[str, str]:
    """Hash every snapshot, every optimizer state and what was evaluated."""
    stored = open_store(path)
    # Older versions have one digest a snapshot, newer ones one a segment: here there is one.
    found = {
        name: digest(stored.small(name).reshape(-1))
        for name in ("digest", "loss", "lr", "batch_accuracy", "eval_loss", "eval_accuracy")
        if name in stored.arrays
    }
    for array in stored.layout.buffer_sizes:
        if array in stored.arrays:
            found[array] = digest(stored.snapshot(int(stored.steps[-1]), array))
    return found


def of_plan(plan: ExperimentPlan, path: Path) -> dict[str, Any]:
    """Run every job here, and hash recordings and gathered results."""
    folder = Folder(path)
    folder.make()
    context = JobContext(folder=str(path), recordings=plan.recordings)
    runs = {}
    for number, (key, job) in enumerate(plan.jobs.items()):
        (result,) = run_jobs([(key, write_job(job))], context)
        if result.error is not None:
            raise RuntimeError(result.error)
        if isinstance(job, TrainJob):
            # Keys of jobs follow from more than what they compute.
            runs[str(number)] = of_run(folder.result(key, job))
    results = gather(plan, folder, read_outcome(plan, folder))
    return {"runs": runs, "results": of_dataset(results.load().drop_vars("job"))}


def everything(root: Path) -> Iterator[tuple[str, Any]]:
    """Yield the name and the hashes of each experiment."""
    for name, settings in NETWORKS.items():
        path = root / f"{name}.zarr"
        run = ckptlab.record_training(path, [*COMMON, *settings])
        yield f"{name} record", of_run(path)
        for metric, options in METRICS.items():
            yield f"{name} {metric}", of_dataset(run.analyze(metric, **options))
        branch = root / f"{name}-branch.zarr"
        ckptlab.record_branch(branch, run, 7, ["optim.lr=0.05"])
        yield f"{name} branch", of_run(branch)
        for kind, plan_of in PLANS.items():
            plan = ExperimentPlan(title=kind, kind=kind)
            parent = recorded_parent(plan, open_store(path), threads=1)
            plan_of(plan, parent)
            yield f"{name} {kind}", of_plan(plan, root / f"{name}-{kind}")
    for name, text in STUDIES.items():
        file = root / f"{name}.toml"
        file.write_text(text)
        study = load_study(file, overrides=[*COMMON, *NETWORKS["lenet"]])
        plan = ExperimentPlan(title=name, kind=study.kind)
        planner(study)(plan, study, 1)
        yield f"study {name}", of_plan(plan, root / f"study-{name}")


def _imp(plan: ExperimentPlan, parent: Any) -> None:
    plan_imp(plan, [parent], rewind=[0, 6], pruner=Pruner(levels=2), pruning=CRITERIA)


def _perturb(plan: ExperimentPlan, parent: Any) -> None:
    plan_perturb(plan, [parent], rewind=[6], perturbations=KINDS)


def _connect(plan: ExperimentPlan, parent: Any) -> None:
    plan_connect(plan, [parent], rewind=[0, 6], options={"alphas": 5, "samples": 256})


def _proxy(plan: ExperimentPlan, parent: Any) -> None:
    pruner = Pruner(levels=1)
    for level, run in enumerate(
        plan_pretrained(plan, parent, parent.source(6), pruner=pruner, budget="full")
    ):
        plan.put(run, level=level)


PLANS: dict[str, Callable[[ExperimentPlan, Any], None]] = {
    "imp": _imp,
    "perturb": _perturb,
    "connect": _connect,
    "proxy": _proxy,
}


def main(file: str) -> int:
    """Write or compare; 1 if anything differs."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        found = dict(everything(Path(folder)))
    path = Path(file)
    if not path.exists():
        path.write_text(json.dumps(found, indent=1))
        print(f"{len(found)} experiments written to {file}")
        return 0
    before = json.loads(path.read_text())
    differing = [name for name in before | found if before.get(name) != found.get(name)]
    print(f"{len(found) - len(differing)} of {len(before)} experiments are the same, bit for bit")
    for name in differing:
        print(f"differs: {name}")
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
