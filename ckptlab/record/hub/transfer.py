"""Push runs to the Hub, and pull them from it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ckptlab.atomic import written_aside
from ckptlab.errors import ConfigError, DataError, RunExistsError
from ckptlab.record.hub.client import cache_folder, download, hub, list_files, parse_repository
from ckptlab.store.read.reader import open_store


def push_run(run: str | os.PathLike[str], url: str, *, private: bool = False) -> str:
    """Upload a run; what is there already is not sent again.

    Parameters
    ----------
    run : str or path-like
        A local run.
    url : str
        ``hf://[datasets/]OWNER/NAME[@REVISION][/FOLDER]``; the repository is made if need be.
    private : bool
        Whether it is made private.

    Returns
    -------
    str
        Where people see it.

    Raises
    ------
    StoreError
        If there is no run.
    ConfigError
        If the run is not local.
    DataError
        If the Hub cannot be reached or does not let in.
    """
    repository = parse_repository(url)
    stored = open_store(run)
    folder = Path(os.fspath(run))
    if not folder.is_dir():
        raise ConfigError(f"{stored.path} is not local; copy it to a folder, and push that")
    with hub(repository) as api:
        api.create_repo(
            repository.name, repo_type=repository.kind, private=private or None, exist_ok=True
        )
        if repository.revision is not None:
            api.create_branch(
                repository.name,
                branch=repository.revision,
                repo_type=repository.kind,
                exist_ok=True,
            )
        api.upload_folder(
            repo_id=repository.name,
            repo_type=repository.kind,
            folder_path=folder,
            path_in_repo=repository.path or None,
            revision=repository.revision,
            commit_message=f"Recording of {len(stored.steps):,} steps",
        )
    return repository.page


def pull_run(url: str, output: str | os.PathLike[str], *, overwrite: bool = False) -> str:
    """Download a run; a stopped download is gone on with.

    Parameters
    ----------
    url : str
        ``hf://[datasets/]OWNER/NAME[@REVISION][/FOLDER]``.
    output : str or path-like
        Local path of the run.
    overwrite : bool
        Whether a run there may be replaced.

    Returns
    -------
    str
        The path.

    Raises
    ------
    RunExistsError
        If something lies there.
    DataError
        If there is no run in the repository, or the Hub cannot be reached or does not let in.
    NoSpaceError
        If it does not fit on the disk.
    StoreError
        If what was downloaded is damaged.
    """
    repository, target = parse_repository(url), Path(output)
    if "://" in os.fspath(output):
        raise ConfigError(f"{os.fspath(output)} is not local; pull to a folder, and copy that")
    if os.path.lexists(target) and not overwrite:
        raise RunExistsError(f"{target} exists; give another name, or --overwrite to replace it")
    files = list_files(repository, recursive=True)
    prefix = f"{repository.path}/" if repository.path else ""
    if f"{prefix}zarr.json" not in files:
        inside = sorted(
            {name.rpartition("/zarr.json")[0] for name in files if "/zarr.json" in name}
        )
        runs = [name for name in inside if not any(name.startswith(f"{o}/") for o in inside)]
        hint = f"; it has {', '.join(runs[:5])}" if runs else ""
        raise DataError(
            f"{repository} holds no run{f' in {repository.path}' * bool(prefix)}{hint}; give "
            "hf://OWNER/NAME/FOLDER"
        )
    cache = cache_folder(["pull", str(repository), repository.revision or "main", repository.path])
    download(repository, files, cache)
    open_store(cache / repository.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(target) as aside:
        shutil.copytree(cache / repository.path, aside, ignore=shutil.ignore_patterns(".cache"))
    shutil.rmtree(cache, ignore_errors=True)
    return str(target)
