"""The page docs/training.md, from registries and settings: ``python -m ckptlab.train.document``."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from ckptlab.train.config import Config
from ckptlab.train.datasets.registry import DATA_SOURCES, DataSource
from ckptlab.train.learning_rate import RATE_SCHEDULES
from ckptlab.train.models.registry import MODELS
from ckptlab.train.optimizers import OPTIMIZERS
from ckptlab.train.presets import PRESETS
from ckptlab.train.sections import Section, StageConfig
from ckptlab.train.tasks.registry import TASKS

HEAD = """# Training

Made from the registries and the settings by `python -m ckptlab.train.document > docs/training.md`;
a test compares.

`ckptlab record [CONFIG.toml] [--preset NAME] [-S section.key=value ...] [-o RUN.zarr]` trains one
network and records it. Settings come from the defaults, then the preset, then the file, then each
`-S`; what comes later wins. An unknown key, or a value that is not accepted, is an error that names
the key and what is accepted. All settings are stored in the run.

```toml
# narrow.toml: a narrow ResNet-20 for 20 epochs, recorded densely at first, then every 10 steps
[model]
name = "resnet20"
width = 8

[optim]
schedule = "multistep"
milestones = ["10ep", "15ep"]

[train]
steps = "20ep"
seed = 3

[record]
steps = "0:100, 100::10"
```

```sh
ckptlab record narrow.toml --dry-run                    # parameters, bytes, time; trains nothing
ckptlab record narrow.toml -o narrow.zarr -S train.seed=4
ckptlab record --resume narrow.zarr -S train.steps=30ep # goes on; only steps and memory may change
```

A step is a number of updates, `500` or `500it`, or of epochs, `2ep`. Ranges are half-open, `A:B` or
`A:B:STRIDE`; an omitted end is the end. Update k takes step k to step k + 1.
"""

DATA = """Images lie on the device as bytes and are normalised by the mean and standard deviation
of each channel of the training images. Augmentation is drawn for each step and image, with
`data.flip` and `data.crop` in place of the policy below if given; the crop pads with black.
"""

TASK = """What the network sees and must answer. Training images are augmented first, then changed
by the task. A run holds the columns *training* and *evaluation* in its attribute `task`.
"""

DEFINITIONS = """- **Turns** are exact: pixels change places, nothing is interpolated. One is
  drawn for each step and training image, and one for good for each test image. They come after
  augmentation because an image turned by 90 degrees and then mirrored is its mirror image turned
  by 270. Images must be square.
- **Random labels** are drawn once for each training image, the true label among the possible ones.
  Test images keep theirs: an evaluation shows how far the network is from chance on the real task.
  How well it learns by heart is in `loss` and `batch_accuracy` of the updates.
- **Blur** divides both sides by `task.factor`, rounded down (32 pixels become 8, the 8 of digits
  become 2: take `task.factor=2` there), and scales up again, in float32. Both ways are bilinear
  between pixel centres; on the way down with a triangle filter as wide as two new pixels, as Pillow
  does. The literature does not state the filter: this is a choice.
- **Draws** of a task depend on `train.task_seed`, which defaults to `train.seed`. Give it to
  replicates that are to share one set of random labels.

### Stages

`task.stages` puts other tasks in the place of `task.name` over ranges of steps. The step before an
update decides, so that any step can be replayed and a run that was stopped goes on exactly.

- `steps` is a range `A:B` or several, separated by commas, half-open, without stride. Ranges of
  different stages must not overlap, nor start after the end of the run.
- A stage needs as many answers as `task.name`: the run has one output layer. A task with others,
  such as rotation before classification, is a run of its own.
- A setting of a task, such as `factor`, may stand in a stage; otherwise the one of `[task]` holds.
- Evaluations are those of `task.name` throughout, and so are the examples that metrics with a model
  use: curves along a run compare like with like.

A critical period is then a plain config. Deficit for the first t0 epochs, and a constant number of
clean ones after it, whatever t0 is:

```toml
# deficit.toml: 40 epochs of blur, then 120 clean ones
[data]
name = "cifar10"

[task]
stages = [{ name = "blur", steps = "0:40ep" }]

[train]
steps = "160ep"
```

```sh
for t0 in 20 40 80; do
  ckptlab record deficit.toml -o deficit-$t0.zarr -S train.steps=$((t0 + 120))ep \\
    -S "task.stages=[{name = 'blur', steps = '0:${t0}ep'}]"
done
ckptlab record deficit.toml -o deficit-0.zarr -S train.steps=120ep -S "task.stages=[]"
```

A window of deficit of constant length that slides over the training, all runs equally long:

```sh
for start in 0 20 40 60; do
  ckptlab record deficit.toml -o window-$start.zarr \\
    -S "task.stages=[{name = 'blur', steps = '${start}ep:$((start + 40))ep'}]"
done
```
"""

SEEDS = """A section is a table of a config file and the first part of a setting in `-S`. A dash as
the default: it depends on other settings, or there is none.

Every random draw is a hash of a seed, a purpose, the step and the sample, the same on CPU and CUDA
and whatever came before. The seeds of `train` default to `train.seed`; a run stores all of them.
"""


def training_page() -> str:
    """Write docs/training.md.

    Returns
    -------
    str
        Markdown.
    """
    parts = [HEAD, "## Networks\n", _networks(), "## Data sets\n", DATA, _data_sets()]
    parts += ["## Tasks\n", TASK, _tasks(), DEFINITIONS]
    parts += ["## Optimizers and learning rates\n", _optimizers(), _rates()]
    parts += ["## Presets\n", _presets()]
    parts += ["## Settings\n", SEEDS, *_settings()]
    return "\n".join(parts)


def _networks() -> str:
    rows = [
        (_code(family.examples), family.summary, "–" if family.width is None else family.width)
        for family in MODELS
    ]
    return _table(("`model.name`", "network", "`model.width`"), rows)


def _data_sets() -> str:
    rows = [
        (
            _code([source.name]),
            source.summary,
            _size(source),
            "yes" if source.flip else "no",
            "side / 8" if source.crop is None else source.crop,
            _code(source.options) or "–",
        )
        for source in DATA_SOURCES
    ]
    columns = ("`data.name`", "images", "size, training and test", "mirrored", "crop", "takes")
    return _table(columns, rows)


def _size(source: DataSource) -> str:
    shape = source.shape
    if shape is None:
        return "as set, or as found"
    size = f"{shape.height} x {shape.width} x {shape.channels}"
    return f"{size}, {shape.train:,} and {shape.test:,}"


def _tasks() -> str:
    rows = [
        (
            _code([task.name]),
            task.summary,
            task.training,
            task.evaluation,
            "classes" if task.answers is None else ", ".join(task.answers),
            _code(task.options) or "–",
        )
        for task in TASKS
    ]
    columns = ("`task.name`", "task", "training", "evaluation", "answers", "takes")
    return _table(columns, rows)


def _optimizers() -> str:
    rows = [
        (_code([entry.name]), entry.summary, _code(["lr", *entry.options])) for entry in OPTIMIZERS
    ]
    return _table(("`optim.name`", "optimizer", "takes"), rows)


def _rates() -> str:
    rows = [(_code([entry.name]), entry.summary) for entry in RATE_SCHEDULES]
    return _table(("`optim.schedule`", "learning rate"), rows)


def _presets() -> str:
    rows = [(_code([preset.name]), preset.summary) for preset in PRESETS]
    return _table(("`--preset`", "settings"), rows)


def _settings() -> list[str]:
    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    # Those of a list's entries come after the section that holds the list.
    places = list(sections.items())
    places.insert(list(sections).index("task") + 1, ("task.stages[…]", StageConfig))
    return [_section(name, kind) for name, kind in places]


def _section(section: str, kind: Any) -> str:
    if not (isinstance(kind, type) and issubclass(kind, Section)):
        raise TypeError(f"{section} is no section")
    rows = []
    for name, field in kind.model_fields.items():
        extra = field.json_schema_extra
        accepted = extra["accepted"] if isinstance(extra, dict) else ""
        default = "required" if field.is_required() else _value(field.default)
        rows.append((_code([f"{section}.{name}"]), default, accepted, field.description))
    table = _table(("setting", "default", "accepted", "what"), rows)
    summary = str(inspect.getdoc(kind)).replace("``", "`")
    return f"### {section}\n\n{summary}\n\n{table}"


def _value(value: object) -> str:
    """Write a default as TOML would have it."""
    return "–" if value is None else f"`{json.dumps(value)}`"


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    escaped = [
        [str(cell).replace("|", "\\|").replace("<", "\\<") for cell in line] for line in lines
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


if __name__ == "__main__":
    sys.stdout.write(training_page())
