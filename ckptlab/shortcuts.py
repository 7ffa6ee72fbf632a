"""Python calls for what the command line does most: record, branch, report, export."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ckptlab.errors import ConfigError, StepError
from ckptlab.run import Run, open_run

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ckptlab.problems.problem import Problem


def record_training(
    path: str | os.PathLike[str],
    settings: Sequence[str] = (),
    *,
    config: str | os.PathLike[str] | None = None,
    preset: str | None = None,
    problem: Problem | Callable[..., Problem] | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Run:
    """Train a network with the built-in trainer and record it, as ``ckptlab record`` does.

    Parameters
    ----------
    path : str or path-like
        Where the run is written.
    settings : sequence of str
        As after ``-S``: ``["model.name=mlp", "train.steps=300"]``.
    config : path-like, optional
        A TOML file of settings; `settings` overrides it.
    preset : str, optional
        Settings to start from, such as ``"resnet20-cifar10"``.
    problem : Problem, callable or str, optional
        What is learnt in place of model, data and task: a `Problem`, a function that returns one,
        or the name of either, which a run can be resumed by in another process.
    resume : bool
        Continue the run at `path` where it stopped, with its settings; `settings` may change
        ``train.steps`` and ``record.memory``.
    overwrite : bool
        Replace the run at `path`.

    Returns
    -------
    Run
        The finished recording.

    Raises
    ------
    ConfigError
        If a setting is not accepted.
    StoreError
        If the path is taken, or cannot be written.
    """
    from ckptlab.train.config import load_config
    from ckptlab.train.decorators import name_problem
    from ckptlab.train.resume import resume_config
    from ckptlab.train.trainer import train

    place = os.fspath(path)
    if resume and (config is not None or preset is not None):
        raise ConfigError(
            "resume=True takes the settings from the run; leave config and preset out, and give "
            "what is to change as settings, such as ['train.steps=600']"
        )
    if resume:
        chosen = resume_config(place, settings)
    else:
        file = None if config is None else Path(config)
        named = [] if problem is None else [f"problem.name={name_problem(problem)!r}"]
        chosen = load_config(file, preset=preset, overrides=[*named, *settings])
    train(chosen, place, resume=resume, overwrite=overwrite)
    return open_run(path)


def record_branch(
    path: str | os.PathLike[str],
    parent: str | os.PathLike[str] | Run,
    step: int | str,
    settings: Sequence[str] = (),
    *,
    fresh_optimizer: bool = False,
    mask: npt.NDArray[np.bool_] | None = None,
    overwrite: bool = False,
) -> Run:
    """Train on from a recorded step of another run, as ``ckptlab record --from`` does.

    Weights, buffers, optimizer, schedule and order of the data go on from `step`; without other
    settings the branch repeats its parent bit for bit.

    Parameters
    ----------
    path : str or path-like
        Where the branch is written.
    parent : str, path-like or Run
        A run of the built-in trainer.
    step : int or str
        The step to start from: ``60``, ``"2ep"``, ``"init"`` or ``"final"``.
    settings : sequence of str
        What differs from the parent's: ``["optim.lr=0.01"]``.
    fresh_optimizer : bool
        Start without the optimizer's state.
    mask : ndarray of bool, shape (param,), optional
        Train only the weights that are True.
    overwrite : bool
        Replace the run at `path`.

    Returns
    -------
    Run
        The finished recording.

    Raises
    ------
    StepError
        If the parent did not train to that step.
    ConfigError
        If a setting is not accepted.
    """
    from ckptlab.train.branch import Point, branch_config, require_network, take
    from ckptlab.train.trainer import train

    stored = (parent if isinstance(parent, Run) else open_run(parent)).stored
    config = branch_config(stored, None, settings, as_parent=not fresh_optimizer)
    require_network(stored, config)
    at = Point(path=stored.path, step=str(step)).resolve(stored)
    start = take(stored, at, config, fresh_optimizer=fresh_optimizer)
    train(config, os.fspath(path), start=start, mask=mask, overwrite=overwrite)
    return open_run(path)


def write_report(
    runs: Run | Sequence[Run | str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
) -> str:
    """Write one self-contained HTML page about one or more runs, as ``ckptlab report`` does.

    Parameters
    ----------
    runs : Run, or sequence of Run, str or path-like
        What it is about, side by side.
    path : str or path-like
        The HTML file; replaced if it is there.
    names : sequence of str, optional
        What the runs are called; by default the names of their files.

    Returns
    -------
    str
        The path.
    """
    from ckptlab.report.page import write_page
    from ckptlab.report.runs.measure import measure_run
    from ckptlab.report.runs.page import runs_page
    from ckptlab.runs import run_names

    listed = [runs] if isinstance(runs, Run) else list(runs)
    opened = [run if isinstance(run, Run) else open_run(run) for run in listed]
    titles = run_names([run.path for run in opened]) if names is None else list(names)
    measured = [measure_run(run, name) for run, name in zip(opened, titles, strict=True)]
    return write_page(runs_page(measured), os.fspath(path))


def export_checkpoints(
    run: Run | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    step: int | str | None = None,
    steps: str | slice | None = None,
    like: str | os.PathLike[str] | None = None,
    shard_size: int | str = "5GiB",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write steps of a run as checkpoints, as ``ckptlab export`` does.

    Parameters
    ----------
    run : Run, str or path-like
        What is exported; tensors keep the names they have in the model.
    output : str or path-like
        A file that ends in .safetensors, .pt or .pth, or a folder as transformers loads it. Where
        `steps` are given, ``{step}`` in it is replaced; a folder without it gets
        ``checkpoint-STEP`` folders, as the Trainer of transformers has them.
    step : int or str, optional
        One recorded step; the last by default.
    steps : str or slice, optional
        A range of recorded steps, ``A:B[:STRIDE]``, instead.
    like : str or path-like, optional
        A folder of the same model, whose config and tokenizer are copied into each folder.
    shard_size : int or str
        A file of safetensors is at most so long; above that there are shards and an index.
    overwrite : bool
        Replace what was exported there before.
    progress : callable, optional
        Called with the steps done and all of them.

    Returns
    -------
    list of str
        The files and folders that were written.

    Raises
    ------
    ConfigError
        If the arguments do not go together.
    StepError
        If a step was not recorded.
    RunExistsError
        If something lies there; nothing is written then.
    WriteError
        If one cannot be written; those before it are whole.
    """
    from ckptlab.analyze.engine.selection import select_columns
    from ckptlab.analyze.engine.source import as_source
    from ckptlab.record.convert import write_checkpoints as write
    from ckptlab.record.memory import parse_memory

    opened = run if isinstance(run, Run) else open_run(run)
    if not len(opened.steps):
        raise StepError(f"{opened.path} holds no steps yet")
    if step is not None and steps is not None:
        raise ConfigError("give step or steps, not both: steps is a range of recorded steps")
    text = os.fspath(output)
    if steps is None:
        chosen = [int(opened.steps[-1]) if step is None else step]
    else:
        chosen = opened.steps[select_columns(as_source(opened), steps)].tolist()
        if "{step}" not in text:
            if Path(text).suffix in write.SUFFIXES:
                raise ConfigError(
                    f"{text} is one file for {len(chosen)} steps; put {{step}} in its name"
                )
            text = os.path.join(text, "checkpoint-{step}")  # noqa: PTH118 - keeps URLs as given
    targets = [Path(text.replace("{step}", str(each))) for each in chosen]
    files = targets[0].suffix != ""
    if files and like is not None:
        raise ConfigError(f"{text} is a file and like= is for folders; give a name without suffix")
    for target in targets:
        (write.require_free_file if files else write.require_free_folder)(
            target, overwrite=overwrite
        )
    limit = parse_memory(shard_size)
    for done, (each, target) in enumerate(zip(chosen, targets, strict=True), 1):
        state = opened.state_dict(each)
        if files:
            write.write_checkpoint(state, target, shard_bytes=limit, overwrite=overwrite)
        else:
            write.write_folder(state, target, like=like, shard_bytes=limit, overwrite=overwrite)
        if progress is not None:
            progress(done, len(targets))
    return [str(target) for target in targets]
