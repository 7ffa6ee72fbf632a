"""The page docs/experiments.md, from registries: ``python -m ckptlab.experiments.document``."""

from __future__ import annotations

import sys
from typing import Any

from ckptlab.experiments.jobs.cluster import ENVIRONMENT
from ckptlab.experiments.operations.registry import PERTURBATIONS
from ckptlab.experiments.plans.imp import BUDGETS, PRUNING
from ckptlab.experiments.plans.study_file import KINDS, Study
from ckptlab.experiments.results.gather import COORDINATES, NUMBERS

HEAD = """# Experiments

Made from the registries by `python -m ckptlab.experiments.document > docs/experiments.md`; a test
compares.

One recording is enough: rewinding, pruning, perturbing and connecting read its snapshots instead
of training again.

```sh
ckptlab record -o dense.zarr -S train.threads=1 -S train.steps=25ep     # the dense network
ckptlab imp dense.zarr --rewind 0,100 --levels 8 -o imp                 # prune, rewind, repeat
ckptlab perturb dense.zarr --at 100 --kind shuffle:filter,keep-signs \\
    --kind noise:1 --mask imp/results.zarr@4 --replicates 3              # perturb, train on
ckptlab connect dense.zarr --at 0,100                                    # two children of a step
ckptlab record --from dense.zarr@100 -o branch.zarr -S optim.lr=0.05     # anything else
ckptlab study examples/early_phase/fig1.toml                             # a whole figure
ckptlab report imp                                                       # results on one page
```

Every command takes `-o DIR`, `--dry-run` (jobs, steps, time), `--json`, `-S section.key=value` for
the trainings, `--workers N`, `--threads N`, `--together N`, `--scheduler tcp://HOST:PORT` and
`--retry-failed`.

## Jobs

An experiment is a set of *jobs*: trainings whose recordings are small runs of their own
(`DIR/jobs/<hash>.zarr`, their start, end and some steps between; `-S record.steps=0:` for all),
and measurements (`DIR/measures/<hash>.zarr`). A job is found by the hash of what decides its
result: settings, the content of the run and step it begins from, mask, perturbation and seeds. So

- the same command on the same folder does what is left, and nothing twice: after an interruption,
  after `kill -9` of a worker or of the driver, or because another experiment needed the same job;
- a training that was stopped in the middle goes on at its last snapshot, bit for bit;
- a job that fails is reported with its error while the rest go on; what needs it is *blocked*. It
  is tried again with `--retry-failed`. The exit code is 1 as long as any job failed.

Jobs run in processes of this machine, one for each GPU or for as many cores as `--threads` of
each leave (default 1, which is fastest for small networks), or on any cluster of dask.distributed
whose workers see the folder under the same path. Such workers are best started with one thread
each and with

```sh
{environment} \\
    dask worker tcp://HOST:PORT --nthreads 1
```

as are those that ckptlab starts: by default dask has a worker give the memory back that an update
frees, and take it anew at the next, which is a sixth of the time of a small ResNet. A GPU does
several trainings at once (`--together`, 8 unless told otherwise), each on a stream of its own and
with the results it would have alone. Bit-identical results need the same device model and number of
threads.

`DIR/results.zarr` holds the gathered results, at any time; what is not there yet is NaN. It is a
Dataset with the dims of the experiment, and `state` (done, failed, blocked, open) and `job` for
each cell: `ckptlab.open_run(f"{DIR}/jobs/{job[4:]}.zarr")` is the run behind it. `ckptlab report
DIR` draws it (docs/report.md).
"""

PRUNE = """## Prune

`ckptlab imp RUN --rewind STEP,... --levels N --fraction 0.2 --scope global|layer`. RUN's final
weights give the first mask; survivors go back to their values at STEP, with batch norm's
statistics, fresh momentum, and the schedule and order of images going on from STEP. Prunable are
the weights of convolutions and linear layers. A level removes exactly round(fraction × survivors)
weights; of equal magnitudes those at lower positions go first. With `--scope layer` each tensor
loses its own share. Pruned weights are zero at every recorded step. `mask` (param, level) in the
results is what `--mask DIR/results.zarr@LEVEL` takes; the run of a sparse training is a mask file
as well.

`--pruning` adds controls:

| name | what |
|---|---|
"""

PRETRAIN = """
`--from PRE@STEP` rewinds to a state pre-trained on another task instead (see docs/training.md for
tasks), from which level 0 is trained first. A new output layer is initialised where the number of
classes differs.

| `--budget` | what |
|---|---|
"""

PERTURB = """
## Perturb

`ckptlab perturb RUN --at STEP,... --kind KIND [--kind KIND ...] [--mask MASK] [--replicates N]`.
Only survivors change: weights that pruning may remove, and that the mask keeps. They are
permuted, drawn or mixed among themselves; pruned weights stay zero. A *filter* is index 0 of a
weight's first dimension. Where a state whose sign is taken is exactly zero, the other state's own
sign is kept. `effective_std` is the standard deviation of w′ − w_k over the survivors. Replicates
vary what is drawn, and with `--vary order,augment` the training too.

| kind | what | reference |
|---|---|---|
"""

CONNECT = """
## Connect

`ckptlab connect RUN --at STEP,...` trains two children of a step with other orders and
augmentations of the images, and evaluates α W₁ + (1 − α) W₂ on 30 even α. `instability` is the
highest error less the mean of the ends'; below 0.02 counts as stable. Dense children go on with
the momentum, those of a `--mask` begin without it. Batch norm's statistics are recomputed on
training images, or averaged with `--statistics average`.

## Studies

`ckptlab study FILE.toml [--scale NAME]` records what it branches from as well: one dense training
for each replicate, whose `train.seed` counts up. A file is one table; `[scales.NAME]` holds what
differs at a scale, of which the first is the default. `[config.SECTION]` are settings as in
docs/training.md, on top of `preset`.

```toml
summary = "Noise at two rewind points"
kind = "perturb"
replicates = 3
rewind = [25, 100]
at_levels = [4]
perturbations = ["none", "noise:0.5", "noise:1.0"]

[config.model]
name = "lenet"

[config.train]
steps = "25ep"
```

`examples/early_phase/` holds a study for each figure of *The Early Phase of Neural Network
Training*, small and as in the paper; `examples/` others. With `-o` the same folder they share
their jobs."""

RESULTS = """
## Results

| name | unit | what |
|---|---|---|
"""


def experiments_page() -> str:
    """Write docs/experiments.md.

    Returns
    -------
    str
        Markdown.
    """
    environment = " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items())
    parts = [HEAD.replace("{environment}", environment), PRUNE.rstrip("\n")]
    parts += [f"| `{name}` | {what} |" for name, what in PRUNING.items()]
    parts += [PRETRAIN.rstrip("\n")]
    parts += [f"| `{name}` | {what} |" for name, what in BUDGETS.items()]
    parts += [PERTURB.rstrip("\n")]
    for entry in PERTURBATIONS.values():
        form = entry.form.replace("|", "\\|")
        summary = entry.summary.replace("|", "\\|")
        parts.append(f"| `{form}` | {summary} | {entry.reference} |")
    parts.append(CONNECT)
    parts += ["| key | default | what |", "|---|---|---|", *_keys(Study, ()), ""]
    for name, (model, _) in KINDS.items():
        parts += _kind(name, model)
    parts.append(RESULTS.rstrip("\n"))
    for name, (units, what) in {**COORDINATES, **NUMBERS}.items():
        parts.append(f"| `{name}` | {units or '–'} | {what} |")
    return "\n".join(parts) + "\n"


def _kind(name: str, model: type[Study]) -> list[str]:
    lines = [f'### `kind = "{name}"`', "", str(model.__doc__), "", "| key | default | what |"]
    return [*lines, "|---|---|---|", *_keys(model, tuple(Study.model_fields)), ""]


def _keys(model: type[Study], known: tuple[str, ...]) -> list[str]:
    lines = []
    for key, field in model.model_fields.items():
        if key != "kind" and key not in known:
            default = "required" if field.is_required() else _default(field.default)
            lines.append(f"| `{key}` | {default} | {field.description} |")
    return lines


def _default(value: Any) -> str:
    if value in (None, "", {}):
        return "none"
    if isinstance(value, tuple):
        return f"`[{', '.join(repr(item) for item in value)}]`".replace("'", '"')
    return f"`{value}`"


if __name__ == "__main__":
    sys.stdout.write(experiments_page())
