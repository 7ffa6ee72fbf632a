"""The page docs/metrics.md, generated from the registry: ``python -m ckptlab.analyze.document``."""

from __future__ import annotations

import sys

from ckptlab.analyze.registry.metrics import METRICS, Metric
from ckptlab.analyze.registry.options import OPTIONS

HEAD = """# Metrics

Made from the registry by `python -m ckptlab.analyze.document > docs/metrics.md`; a test compares.

Each metric is a command, `ckptlab analyze METRIC RUN`, a call, `run.analyze("METRIC")`, and a
method of any dataset opened from a run, `ds.ckpt.METRIC()` (with underscores). Options have the
same names everywhere, with underscores in Python.
"""

DEFAULTS = {
    "steps": "all; `log:2` and `log:3` where a model is needed",
    "mask": "none",
    "scheduler": "`threads`",
    "eigenvalues": "classes",
    "other": "none",
    "samples": "`512`, `1024` of `connectivity`, all of `gradient-magnitude`",
    "batch_norm": "`eval`, `train` of `gradient-magnitude`",
}
"""Where the registry does not say it in a word."""

TAIL = """## What is measured

- A rate is over the selected weights: after `--kinds` and `--mask`, zeros included.
- A sign is -1, 0 or 1; a flip is a change between two non-zero signs.
- `init` is step 0. `final` is the last recorded step; results say so where the run isn't complete.
- `previous` is the previous recorded step, also when it lies before `--steps`; NaN at the first.
  The coordinate `interval` counts the updates between the two.
- A NaN in weights makes the cells it belongs to NaN, with a warning that names tensor and step.
- A metric that needs a model takes `model`, `loss` (cross-entropy by default) and `data`,
  (inputs, targets) or a torch dataset of such pairs, in Python. For a run of the built-in trainer
  they are rebuilt from its settings unless given, without augmentation. The model is copied.
  Dropout is off, batch norm uses the recorded running statistics unless said otherwise.
- `--with` is `other=` in Python, and takes an opened run, or (run, step), too.
- Sums are taken in float64, counts in integers.
- `--scheduler threads` measures a model here, torch using all cores; `processes` and a cluster
  spread the steps (of `connectivity`, the line) over workers.
- In Python, `mask` is also an array of bool over `param`, and `scheduler` a `distributed.Client`.
"""


def metrics_page() -> str:
    """Write docs/metrics.md.

    Returns
    -------
    str
        Markdown.
    """
    lines = [HEAD, "| metric | what | unit | dims | needs |", "|---|---|---|---|---|"]
    lines += [_row(metric) for metric in METRICS.values()]
    lines += [
        "",
        "## Options",
        "",
        "| option | takes | default | what | of |",
        "|---|---|---|---|---|",
    ]
    for option in OPTIONS.values():
        takers = [m for m in METRICS.values() if option.name in m.options]
        of = "all" if len(takers) == len(METRICS) else ", ".join(f"`{m.name}`" for m in takers)
        taken = "–" if option.switch else f"`{option.metavar}`".replace("|", "\\|")
        defaults = {m.default(option.name) for m in takers} - {None}
        default = " or ".join(f"`{d}`" for d in sorted(defaults, key=str)) or "all"
        default = DEFAULTS.get(option.name, "no" if option.switch else default)
        lines.append(f"| `{option.flag}` | {taken} | {default} | {option.help} | {of} |")
    lines += ["", "## References", ""]
    lines += [f"- `{metric.name}`: {metric.reference}." for metric in METRICS.values()]
    return "\n".join([*lines, "", TAIL])


def _row(metric: Metric) -> str:
    dims = ", ".join(metric.dims)
    if "by" in metric.options:
        dims += "; with `--by`: layer or tensor, " + dims
    needs = ", ".join(f"`{name}`" for name in metric.needs)
    if metric.inputs:
        flags = " or ".join(f"`{OPTIONS[name].flag}`" for name in metric.inputs_for)
        needs += "; a model" + (f" with {flags}" if flags else "")
    summary = metric.summary.replace("|", "\\|")
    return f"| `{metric.name}` | {summary} | {metric.unit} | {dims} | {needs} |"


if __name__ == "__main__":
    sys.stdout.write(metrics_page())
