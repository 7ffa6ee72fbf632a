"""Render the generated pages of the documentation from docs/templates and the registries.

python docs/generate.py            write docs/{metrics,training,experiments,import}.md
python docs/generate.py --check    exit 1 if a page is not current
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import jinja2

DOCS = Path(__file__).parent


def render(page: str) -> str:
    """Return the text of a generated page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(DOCS / "templates"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  Markdown, from our own registries
    )
    template = environment.get_template(f"{page}.md.j2")
    return template.render(PAGES[page]()).rstrip() + "\n"


def metrics() -> dict[str, str]:
    """Tables of docs/metrics.md."""
    from ckptlab.analyze.registry.metrics import METRICS
    from ckptlab.analyze.registry.options import OPTIONS

    defaults = {
        "steps": "all; `log:2` and `log:3` where a model is needed",
        "mask": "none",
        "scheduler": "`threads`",
        "eigenvalues": "classes",
        "other": "none",
        "samples": "`512`; `256` of `representation`, `1024` of `connectivity` and "
        "`learning-coefficient`, all of `gradient-magnitude`",
        "batch_norm": "`train`, `eval` of `representation`",
        "through": "the plane of the path",
        "layers": "those of `--kinds`",
    }
    rows = []
    for metric in METRICS.values():
        dims = ", ".join(metric.dims)
        if "by" in metric.options:
            dims += "; with `--by`: layer or tensor, " + dims
        needs = code(metric.needs)
        if metric.inputs:
            flags = " or ".join(f"`{metric.options[name].flag}`" for name in metric.inputs_for)
            needs += "; a model" + (f" with {flags}" if flags else "")
        rows.append((code([metric.name]), metric.summary, metric.unit, dims, needs))
    options = []
    for option in OPTIONS.values():
        takers = [m for m in METRICS.values() if option.name in m.options]
        of = "all" if len(takers) == len(METRICS) else code(m.name for m in takers)
        taken = code([option.metavar]) if option.metavar else "–"
        found = {m.default(option.name) for m in takers} - {None}
        default = " or ".join(f"`{d}`" for d in sorted(found, key=str)) or "all"
        default = defaults.get(option.name, default if option.metavar else "no")
        options.append((code([option.flag]), taken, default, option.help, of))
    return {
        "metrics": table(("metric", "what", "unit", "dims", "needs"), rows),
        "options": table(("option", "takes", "default", "what", "of"), options),
        "references": "".join(f"- `{m.name}`: {m.reference}.\n" for m in METRICS.values()),
    }


def importing() -> dict[str, str]:
    """Tables of docs/import.md; the layouts are those that tests make and import."""
    from ckptlab.record.convert.choose_weights import STATES
    from ckptlab.record.convert.readers.registry import READERS

    sys.path.insert(0, str(DOCS.parent))
    from tests.record.convert.test_layouts import FOREIGN, LAYOUTS

    refused: dict[tuple[str, str], list[str]] = {}
    for name, (what, fix) in FOREIGN.items():
        refused.setdefault((what, fix), []).append(name)
    return {
        "layouts": table(("layout", "imported"), [(name, "exactly") for name in LAYOUTS]),
        "readers": named(("reader", "reads"), {r.name: r.summary for r in READERS.values()}),
        "refused": table(
            ("found", "what it is", "what to do"),
            [(code(names), what, fix) for (what, fix), names in refused.items()],
        ),
        "states": code(STATES),
    }


def experiments() -> dict[str, str]:
    """Tables of docs/experiments.md."""
    from ckptlab.experiments.jobs.cluster import ENVIRONMENT
    from ckptlab.experiments.operations.criteria import PRUNING
    from ckptlab.experiments.operations.registry import PERTURBATIONS
    from ckptlab.experiments.plans.imp import BUDGETS
    from ckptlab.experiments.plans.study_file import KINDS, Study
    from ckptlab.experiments.results.gather import COORDINATES, NUMBERS

    def keys(model: Any, known: Iterable[str] = ()) -> str:
        rows = []
        for key, field in model.model_fields.items():
            if key != "kind" and key not in known:
                default = "required" if field.is_required() else toml(field.default, "none")
                rows.append((code([key]), default, field.description))
        return table(("key", "default", "what"), rows)

    kinds = [
        f'### `kind = "{name}"`\n\n{model.__doc__}\n\n{keys(model, Study.model_fields)}'
        for name, model in ((k.name, k.settings) for k in KINDS.values())
    ]
    results = {**COORDINATES, **NUMBERS}.items()
    return {
        "environment": " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items()),
        "pruning": table(
            ("name", "what", "reference"),
            [(code([c.name]), c.summary, c.reference or "–") for c in PRUNING.values()],
        ),
        "budgets": named(("`--budget`", "what"), BUDGETS),
        "perturbations": table(
            ("kind", "what", "reference"),
            [(code([p.form]), p.summary, p.reference) for p in PERTURBATIONS.values()],
        ),
        "study_keys": keys(Study),
        "study_kinds": "\n".join(kinds),
        "results": table(
            ("name", "unit", "what"),
            [(code([name]), units or "–", what) for name, (units, what) in results],
        ),
    }


def training() -> dict[str, str]:
    """Tables of docs/training.md."""
    from ckptlab.train.config import Config
    from ckptlab.train.datasets.registry import DATA_SOURCES, DataConfig, DataSet
    from ckptlab.train.learning_rate import RATE_SCHEDULES
    from ckptlab.train.models.registry import MODELS
    from ckptlab.train.optimizers import OPTIMIZERS, Optim, OptimConfig
    from ckptlab.train.presets import PRESETS
    from ckptlab.train.problem_settings import ACCURACIES, LOSSES
    from ckptlab.train.settings import models_in
    from ckptlab.train.tasks.registry import TASKS, AnyTask, Stage, TaskConfig

    def size(source: Any) -> str:
        shape = source.shape
        if shape is None:
            return "as set, or as found"
        image = f"{shape.height} x {shape.width} x {shape.channels}"
        return f"{image}, {shape.train:,} and {shape.test:,}"

    def section(name: str, holds: Any) -> str:
        kinds = [kind for _, kind in models_in(holds)]
        # What all variants of a section share says what the section is.
        base = next(c for c in kinds[0].__mro__ if all(issubclass(k, c) for k in kinds))
        takers: dict[tuple[str, ...], list[Any]] = {}
        for kind in kinds:
            for key, field in {**kind.model_fields, "name": base.model_fields.get("name")}.items():
                if field is not None:
                    accepted = (field.json_schema_extra or {}).get("accepted", "")
                    default = "required" if field.is_required() else toml(field.default, "–")
                    row = (code([f"{name}.{key}"]), default, accepted, str(field.description))
                    takers.setdefault(row, []).append(kind)
        rows: list[tuple[str, ...]] = list(takers)
        if len(kinds) > 1:
            names = {k: get_args(k.model_fields["name"].annotation) for k in kinds}
            rows = [
                (
                    *row,
                    "all"
                    if found == kinds
                    else ", ".join(code(names[k]) or "yours" for k in found),
                )
                for row, found in takers.items()
            ]
        summary = str(inspect.getdoc(base)).replace("``", "`")
        columns = ("setting", "default", "accepted", "what", "of")[: len(rows[0])]
        return f"### {name}\n\n{summary}\n\n" + table(columns, rows)

    def own(kinds: Any, name: str, besides: Any) -> str:
        """Return the settings that one name takes besides those that all take."""
        kind = next(
            k for _, k in models_in(kinds) if name in get_args(k.model_fields["name"].annotation)
        )
        return code(key for key in kind.model_fields if key not in besides.model_fields) or "–"

    sections = [(name, field.annotation) for name, field in Config.model_fields.items()]
    # The settings of a list's entries come after the section that holds the list.
    after = [name for name, _ in sections].index("task") + 1
    sections.insert(after, ("task.stages[…]", Stage))
    return {
        "networks": table(
            ("`model.name`", "network", "`model.width`"),
            [
                (code(m.examples), m.summary, "–" if m.width is None else m.width)
                for m in MODELS.values()
            ],
        ),
        "data_sets": table(
            ("`data.name`", "images", "size, training and test", "mirrored", "crop", "takes"),
            [
                (
                    code([source.name]),
                    source.summary,
                    size(source),
                    "yes" if source.flip else "no",
                    "side / 8" if source.crop is None else source.crop,
                    own(DataSet, source.name, DataConfig),
                )
                for source in DATA_SOURCES.values()
            ],
        ),
        "tasks": table(
            ("`task.name`", "task", "training", "evaluation", "answers", "takes"),
            [
                (
                    code([task.name]),
                    task.summary,
                    task.training,
                    task.evaluation,
                    "classes" if task.answers is None else ", ".join(task.answers),
                    own(AnyTask, task.name, TaskConfig),
                )
                for task in TASKS.values()
            ],
        ),
        "optimizers": table(
            ("`optim.name`", "optimizer", "takes besides"),
            [
                (code([e.name]), e.summary, own(Optim, e.name, OptimConfig))
                for e in OPTIMIZERS.values()
            ],
        ),
        "schedules": table(
            ("`optim.schedule`", "learning rate"),
            [(code([entry.name]), entry.summary) for entry in RATE_SCHEDULES.values()],
        ),
        "losses": table(
            ("`loss.name`", "loss", "accuracy"),
            [(code([e.name]), e.summary, code([e.accuracy])) for e in LOSSES.values()],
        ),
        "accuracies": named(
            ("`loss.accuracy`", "what"), {e.name: e.summary for e in ACCURACIES.values()}
        ),
        "presets": table(
            ("`--preset`", "settings"), [(code([p.name]), p.summary) for p in PRESETS.values()]
        ),
        "settings": "\n".join(section(name, kind) for name, kind in sections),
    }


PAGES = {
    "metrics": metrics,
    "experiments": experiments,
    "training": training,
    "import": importing,
}


def code(names: Iterable[str]) -> str:
    """Return names as code, separated by commas."""
    return ", ".join(f"`{name}`" for name in names)


def toml(value: Any, nothing: str) -> str:
    """Return a default as TOML has it."""
    if value in (None, "", {}):
        return nothing
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def named(columns: Sequence[str], entries: Any) -> str:
    """Return a table of names and what they mean."""
    return table(columns, [(code([name]), what) for name, what in entries.items()])


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    cells = [[str(cell).replace("|", "\\|").replace("<", "\\<") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def main() -> int:
    """Write the pages, or with --check compare them."""
    stale = []
    for page in PAGES:
        path, text = DOCS / f"{page}.md", render(page)
        if "--check" not in sys.argv:
            path.write_text(text)
        elif path.read_text() != text:
            stale.append(f"docs/{page}.md")
    if stale:
        print(f"not current: {', '.join(stale)}. Run: python docs/generate.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
