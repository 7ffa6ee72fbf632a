"""What a run holds, in figures: for ``ckptlab info`` and for pages about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptlab.store.read.reader import StoredRun


def run_facts(stored: StoredRun) -> dict[str, Any]:
    """Count steps, tensors and bytes, and repeat what the run says of itself.

    Parameters
    ----------
    stored : StoredRun
        As `open_store` gives it.

    Returns
    -------
    dict
        JSON. `raw_bytes` is 4·parameters·steps, `stored_bytes` the files under ``weights/``,
        `ratio` their quotient, None before the first commit.
    """
    sizes = stored.file_sizes()
    weight_bytes = sum(
        size
        for key, size in sizes.items()
        if key.startswith("weights/") and not key.endswith("zarr.json")
    )
    raw_bytes = 4 * stored.layout.parameters * len(stored.steps)
    return {
        "path": stored.path,
        "state": stored.state,
        "steps": len(stored.steps),
        "first_step": int(stored.steps[0]) if len(stored.steps) else None,
        "last_step": int(stored.steps[-1]) if len(stored.steps) else None,
        "tensors": len(stored.layout.tensors),
        "parameters": stored.layout.parameters,
        "buffers": sum(stored.layout.buffer_sizes.values()),
        "arrays": list(stored.arrays),
        "raw_bytes": raw_bytes,
        "stored_bytes": weight_bytes,
        "ratio": raw_bytes / weight_bytes if weight_bytes else None,
        "total_stored_bytes": sum(sizes.values()),
        "codec": stored.attributes["codec"],
        "block": stored.attributes["block"],
        "anchors": len(stored.anchors),
        "config": stored.attributes.get("config", {}),
        "seeds": stored.attributes.get("seeds", {}),
        "threads": stored.attributes.get("threads"),
        "device": stored.attributes.get("device", {}),
        "versions": stored.attributes.get("versions", {}),
        "started": stored.attributes.get("started"),
        "branch": stored.attributes.get("branch"),
        "density": _density(stored),
    }


def human_bytes(count: float) -> str:
    """Write an amount of memory for people, such as ``1.2 GB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def _density(stored: StoredRun) -> float | None:
    """Return the share of prunable weights that a sparse training kept."""
    mask = stored.mask()
    if mask is None:
        return None
    prunable = [mask[t.stretch] for t in stored.layout.tensors if t.prunable]
    count = sum(len(part) for part in prunable)
    return sum(int(part.sum()) for part in prunable) / count if count else 1.0
