"""Talk to the Hub through huggingface_hub, and say in one line what went wrong."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptlab.errors import ConfigError, DataError, NoSpaceError
from ckptlab.extras import require

SCHEME = "hf://"

_URL = re.compile(
    r"hf://(?:(?P<kind>datasets|models)/)?(?P<name>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>[^@\s]+?))?(?:/(?P<path>[^@]+?))?/?"
)
_SPARE = 2**26
"""Bytes of a disk that downloads leave free."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository on the Hub, at a revision, and a folder in it.

    `kind` is ``model`` or ``dataset``; `path` is empty for the whole.
    """

    name: str
    kind: str = "model"
    revision: str | None = None
    path: str = ""

    def __str__(self) -> str:
        kind = "datasets/" if self.kind == "dataset" else ""
        return f"{SCHEME}{kind}{self.name}"

    @property
    def page(self) -> str:
        """Where people see it."""
        kind = "datasets/" if self.kind == "dataset" else ""
        return f"{endpoint()}/{kind}{self.name}"


def parse_repository(url: str) -> Repository:
    """Read ``hf://[datasets/]OWNER/NAME[@REVISION][/PATH]``; ConfigError if it is none."""
    found = _URL.fullmatch(url)
    if found is None or ".." in (found["path"] or "").split("/"):
        raise ConfigError(
            f"{url!r} names no repository; accepted: hf://OWNER/NAME, hf://OWNER/NAME@REVISION, "
            "hf://datasets/OWNER/NAME/FOLDER"
        )
    revision, path = found["revision"], found["path"] or ""
    return Repository(
        name=found["name"],
        kind="dataset" if found["kind"] == "datasets" else "model",
        revision=revision,
        path=path,
    )


def endpoint() -> str:
    """Return the Hub's address: HF_ENDPOINT, or the public one."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


@contextlib.contextmanager
def hub(repository: Repository) -> Iterator[Any]:
    """Give an `HfApi`, and turn what it raises into errors of one line."""
    library = require("huggingface_hub", f"{SCHEME} paths")
    errors = require("huggingface_hub.errors", f"{SCHEME} paths")
    bars = require("huggingface_hub.utils", f"{SCHEME} paths")
    shown = not bars.are_progress_bars_disabled()
    bars.disable_progress_bars()
    try:
        yield library.HfApi(endpoint=endpoint())
    except errors.GatedRepoError as error:
        raise DataError(
            f"{repository} is gated: accept its terms at {repository.page}, then log in with "
            "`hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DataError(
            f"{repository} is not on {endpoint()}, or it is private; check the name, or log in "
            "with `hf auth login` or HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DataError(
            f"{repository} has no revision {repository.revision!r}; see {repository.page}/tree/main"
        ) from error
    except getattr(errors, "RemoteEntryNotFoundError", ()) as error:
        raise DataError(
            f"{repository} has no {repository.path or 'such file'} at "
            f"{repository.revision or 'main'}; see {repository.page}/tree/main"
        ) from error
    except errors.SafetensorsParsingError as error:
        raise DataError(
            f"{repository} at {repository.revision or 'main'}: {error!s:.200}".replace("\n", " ")
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise NoSpaceError(f"{repository}: the disk is full; make space and go on") from error
        raise _unreachable(repository, error) from error
    except Exception as error:
        if not type(error).__module__.startswith(("httpx", "httpcore", "huggingface_hub")):
            raise
        raise _unreachable(repository, error) from error
    finally:
        if shown:
            bars.enable_progress_bars()


def list_revisions(repository: Repository) -> list[str]:
    """List branches and tags."""
    with hub(repository) as api:
        refs = api.list_repo_refs(repository.name, repo_type=repository.kind)
    return list(dict.fromkeys(ref.name for ref in (*refs.branches, *refs.tags)))


def list_files(repository: Repository, *, recursive: bool = False) -> dict[str, int]:
    """List the files of a revision, below `path`, with their sizes in bytes."""
    with hub(repository) as api:
        entries = api.list_repo_tree(
            repository.name,
            repository.path or None,
            recursive=recursive,
            revision=repository.revision,
            repo_type=repository.kind,
        )
        files = {entry.path: entry.size for entry in entries if hasattr(entry, "size")}
    for name in files:
        if ".." in name.split("/") or name.startswith(("/", "\\")) or not name.isprintable():
            raise DataError(f"{repository} holds a file {name!r:.80}, which would lie elsewhere")
    return files


def download(repository: Repository, files: dict[str, int], folder: Path) -> None:
    """Download files of a revision into a folder; goes on where an earlier call was stopped."""
    missing = sum(
        size
        for name, size in files.items()
        if not (folder / name).is_file() or (folder / name).stat().st_size != size
    )
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free - _SPARE
    if missing > free:
        raise NoSpaceError(
            f"{repository} at {repository.revision or 'main'} needs {missing:,} bytes below "
            f"{folder}, where {max(free, 0):,} are free; make space, or set HF_HOME to another disk"
        )
    with hub(repository) as api:
        for name in files:
            api.hf_hub_download(
                repository.name,
                name,
                revision=repository.revision,
                repo_type=repository.kind,
                local_dir=folder,
            )


def _unreachable(repository: Repository, error: BaseException) -> DataError:
    why = str(error).strip().partition("\n")[0] or type(error).__name__
    return DataError(
        f"{repository} cannot be reached on {endpoint()}: {why:.200}; check the network "
        "(HF_ENDPOINT, proxies) and run the command again, which goes on where it stopped"
    )


def cache_folder(names: Sequence[str]) -> Path:
    """Return where downloads lie until they are imported: below HF_HOME."""
    home = os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
    safe = [re.sub(r"[^\w.-]+", "--", name) for name in names]
    return Path(home).joinpath("ckptlab", *safe)
