"""Read image files in one folder a class, under ``train/`` and ``test/``.

Classes and files are taken in sorted order, so that the same
files give the same data set on every machine.
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ckptlab.errors import DataError
from ckptlab.train.data_root import VARIABLE
from ckptlab.train.datasets.images import Images
from ckptlab.train.datasets.registry import DataShape

SUFFIXES: frozenset[str] = frozenset(
    {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""File names that count as images; all other files are left alone."""

SOME = 1024
"""Images that `read_some` reads at most."""

# Small images decode in 0.1 ms; handed out one by one, threads would wait for each other instead.
_TOGETHER = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class _Files:
    classes: tuple[str, ...]
    train: tuple[tuple[Path, ...], ...]
    test: tuple[tuple[Path, ...], ...]


def describe(root: str | None, image_size: int | None, channels: int) -> DataShape:
    """Return the shape of a folder's data set, from file names and one image."""
    files = _scan(root)
    first = _decode(files.train[0][0], image_size, channels)
    return DataShape(
        channels=first.shape[2],
        height=first.shape[0],
        width=first.shape[1],
        classes=len(files.classes),
        train=sum(len(paths) for paths in files.train),
        test=sum(len(paths) for paths in files.test),
    )


def load(root: str | None, image_size: int | None, channels: int) -> Images:
    """Read all images; the smaller side of each is scaled to `image_size`, the middle cut out.

    Raises
    ------
    DataError
        If the folder is not of the expected form, an image cannot be read or sizes differ.
    """
    files = _scan(root)
    train, train_labels = _read(files.train, image_size, channels)
    test, test_labels = _read(files.test, image_size, channels)
    return Images(
        train=train,
        train_labels=train_labels,
        test=test,
        test_labels=test_labels,
        classes=files.classes,
    )


def read_some(root: str | None, image_size: int | None, channels: int) -> float:
    """Read some of the images, and return which share of all they are: to be timed."""
    files = _scan(root)
    some = files.train[0][:SOME]
    _read((some,), image_size, channels)
    return len(some) / sum(map(len, (*files.train, *files.test)))


def _scan(named: str | None) -> _Files:
    if named is None:
        raise DataError(
            "data.root is not set, the folder of train/<class>/ and test/<class>/; name it with "
            f"--data-root DIR, -S data.root=DIR or {VARIABLE}=DIR",
            parameter="data.root",
            fix="--data-root DIR",
        )
    root = Path(named)
    for half in ("train", "test"):
        if not (root / half).is_dir():
            raise DataError(
                f"data.root={str(root)!r} has no folder {half}/; an image folder holds "
                "train/<class>/ and test/<class>/"
            )
    folders = [entry for half in ("train", "test") for entry in sorted((root / half).iterdir())]
    # A folder's time changes with the names in it; plans ask for the number of images again and
    # again.
    return _found(root, tuple((entry.name, entry.stat().st_mtime_ns) for entry in folders))


@functools.lru_cache(maxsize=4)
def _found(root: Path, stamp: tuple[tuple[str, int], ...]) -> _Files:  # noqa: ARG001
    found = {half: _scan_half(root / half) for half in ("train", "test")}
    for half, other in (("train", "test"), ("test", "train")):
        missing = sorted(found[other].keys() - found[half].keys())
        if missing:
            raise DataError(
                f"data.root={str(root)!r}: {half}/ lacks {_listed(missing)} of {other}/; "
                "both must have the same classes"
            )
    classes = tuple(sorted(found["train"]))
    if len(classes) < 2:
        raise DataError(
            f"data.root={str(root)!r} has {len(classes)} class folders in train/; "
            "at least 2 are needed"
        )
    return _Files(
        classes=classes,
        train=tuple(found["train"][name] for name in classes),
        test=tuple(found["test"][name] for name in classes),
    )


def _scan_half(folder: Path) -> dict[str, tuple[Path, ...]]:
    found: dict[str, tuple[Path, ...]] = {}
    for entry in folder.iterdir():
        if not entry.is_dir() or entry.name.startswith("."):
            continue
        paths = sorted(p for p in entry.iterdir() if p.suffix.lower() in SUFFIXES)
        if not paths:
            raise DataError(
                f"{str(entry)!r} holds no image; accepted are {', '.join(sorted(SUFFIXES))}"
            )
        found[entry.name] = tuple(paths)
    return found


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return f"the class{'es' * (len(names) > 1)} {shown}{', ...' * (len(names) > 5)}"


def _read(
    classes: tuple[tuple[Path, ...], ...], image_size: int | None, channels: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    paths = [path for group in classes for path in group]
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(group) for group in classes])
    first = _decode(paths[0], image_size, channels)
    images = np.empty((len(paths), *first.shape), np.uint8)

    def fill(start: int) -> None:
        for i, path in enumerate(paths[start : start + _TOGETHER], start):
            image = _decode(path, image_size, channels)
            if image.shape != first.shape:
                raise DataError(
                    f"{str(path)!r} is {image.shape[1]} x {image.shape[0]} pixels, "
                    f"{str(paths[0])!r} {first.shape[1]} x {first.shape[0]}; "
                    "set data.image_size to bring all to one size"
                )
            images[i] = image

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(fill, range(0, len(paths), _TOGETHER)):
            pass
    return images, labels


def _decode(path: Path, side: int | None, channels: int) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            pixels = image.convert("L" if channels == 1 else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{str(path)!r} cannot be read as an image: {error}") from error
    if side is not None:
        pixels = fit(pixels, side)
    return np.asarray(pixels, np.uint8).reshape(pixels.height, pixels.width, channels)


def fit(image: Image.Image, side: int) -> Image.Image:
    """Scale the smaller side of an image to `side`, and cut out the middle."""
    return ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)
