"""Read the data sets of torchvision, and download those that are absent."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torchvision import datasets

from ckptlab.errors import DataError
from ckptlab.train.datasets.imagefolder import fit
from ckptlab.train.datasets.images import Images

_CLASSES: dict[str, Any] = {
    "cifar10": datasets.CIFAR10,
    "cifar100": datasets.CIFAR100,
    "mnist": datasets.MNIST,
    "fashion-mnist": datasets.FashionMNIST,
    "svhn": datasets.SVHN,
}
_TIMEOUT_SECONDS = 30.0
_FAILURES = (OSError, RuntimeError, ValueError, EOFError)


def default_root() -> Path:
    """Return where downloads are kept by default: ``ckptlab/data`` in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "ckptlab" / "data"


def load(
    name: str, root: str | None, image_size: int | None = None, download: bool = True
) -> Images:
    """Read one of torchvision's data sets, with the halves it has itself.

    Parameters
    ----------
    name : str
        As users write it.
    root : str or None
        The folder torchvision keeps its files in; None is `default_root`.
    image_size : int or None
        Side to resize to; None leaves images as they are.
    download : bool
        Whether files that are absent are downloaded. Reading and failing make nothing.

    Returns
    -------
    Images
        Training and test images.

    Raises
    ------
    DataError
        If the files are absent and cannot be downloaded, or are damaged.
    """
    folder = Path(root).expanduser() if root else default_root()
    try:
        halves = [_half(name, folder, train=flag) for flag in (True, False)]
    except _FAILURES as error:
        if not download:
            raise DataError(
                f"data {name!r} is not complete under {str(folder)!r}, and nothing is downloaded "
                "to measure a run; give the folder torchvision keeps it in with --data-root"
            ) from error
        halves = _downloaded(name, folder)
    train, test = halves
    return Images(
        train=_pixels(train.data, image_size),
        train_labels=_labels(train),
        test=_pixels(test.data, image_size),
        test_labels=_labels(test),
        classes=tuple(getattr(train, "classes", map(str, range(10)))),
    )


def _half(name: str, root: Path, *, train: bool, download: bool = False) -> Any:
    split = {"split": "train" if train else "test"} if name == "svhn" else {"train": train}
    return _CLASSES[name](root=str(root), download=download, **split)


def _downloaded(name: str, root: Path) -> list[Any]:
    """Download both halves; folders that were not there and stayed empty are removed."""
    before = {path for path in (root, *root.parents, *root.rglob("*")) if path.is_dir()}
    try:
        # Results go to stdout, so what torchvision says while downloading must not.
        with _impatient(), contextlib.redirect_stdout(sys.stderr):
            return [_half(name, root, train=flag, download=True) for flag in (True, False)]
    except _FAILURES as error:
        made = {path for path in (root, *root.parents, *root.rglob("*")) if path.is_dir()} - before
        for path in sorted(made, key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError):
                path.rmdir()
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"data {name!r} is not complete under {str(root)!r} and could not be downloaded "
            f"({reason}); set data.root to the folder torchvision keeps it in, or connect to the "
            "network."
        ) from error


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """Let a server that does not answer be an error; torchvision sets no timeout."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _pixels(data: Any, side: int | None) -> npt.NDArray[np.uint8]:
    images = np.asarray(data, np.uint8)
    if images.ndim == 4 and images.shape[3] != 3:
        # SVHN is kept with the channels first.
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    if side is not None:
        images = np.stack([np.asarray(fit(Image.fromarray(image), side)) for image in images])
    return images if images.ndim == 4 else images[..., None]


def _labels(half: Any) -> npt.NDArray[np.int64]:
    return np.asarray(half.targets if hasattr(half, "targets") else half.labels, np.int64)
