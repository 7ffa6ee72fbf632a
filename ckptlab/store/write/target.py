"""Check whether a new run may be written at a path."""

from __future__ import annotations

from ckptlab.errors import RunExistsError, StoreError
from ckptlab.store.backends.base import LOCK, PARTIAL, ROOT, Storage
from ckptlab.store.format import schema
from ckptlab.store.format.constants import CONSTANTS
from ckptlab.store.read.root import MAX_ROOT_BYTES, read_root


def is_free(storage: Storage) -> bool:
    """Return whether nothing lies at a path, or only the rest of a run that never began.

    True also for the metadata of a run whose writer was killed before its first step. False where
    recorded data lie, even if the root metadata is lost.
    """
    if not storage.exists():
        return True
    return _is_rest(storage) and not any(_is_recorded(key) for key in storage.list())


def require_free(storage: Storage, *, overwrite: bool) -> None:
    """Raise RunExistsError, saying what lies there and what to do, if the path is taken.

    `overwrite` allows to replace a run or what is left of one; never anything else.
    """
    if is_free(storage):
        return
    if overwrite:
        if _is_run(storage) or _is_rest(storage):
            return
        raise RunExistsError(
            f"{storage.path} exists and is no run, so it is not overwritten; use another path"
        )
    hint = "use another path, or overwrite it"
    try:
        attributes, _ = read_root(storage)
    except StoreError as error:
        what = "is no run"
        if _is_run(storage):
            what = f"holds a run that cannot be read ({error})"
        elif _is_rest(storage):
            what = f"holds the data of a run whose {ROOT} is missing"
        raise RunExistsError(f"{storage.path} exists and {what}; use another path") from error
    state = attributes["state"]
    if state != "complete":
        hint = f"resume it with --resume (resume=True), {hint}"
    raise RunExistsError(f"{storage.path} exists and holds a run ({state}); {hint}")


def _is_rest(storage: Storage) -> bool:
    """Return whether only arrays of a run are left, without its root metadata."""
    keys = {*storage.list(), *storage.unfinished()}
    return ROOT not in keys and LOCK in keys and all(_is_ours(key) for key in keys)


def _is_recorded(key: str) -> bool:
    name, _, rest = key.partition("/")
    return rest.startswith("c/") and name not in (*CONSTANTS, schema.MASK)


def _is_run(storage: Storage) -> bool:
    """Return whether it is a run, even a damaged one or one of a newer format."""
    size = storage.size(ROOT) or 0
    return 0 < size <= MAX_ROOT_BYTES and b'"metadata_digest"' in storage.get(ROOT)


def _is_ours(key: str) -> bool:
    first = key.partition("/")[0]
    if first in (LOCK, "weights", "gradients", *CONSTANTS, schema.MASK, *schema.SERIES):
        return True
    unfinished_root = first.startswith(ROOT) and first.endswith(PARTIAL)
    return unfinished_root or first.startswith(("buffers", schema.OPTIMIZER))
