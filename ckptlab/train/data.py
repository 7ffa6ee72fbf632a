"""Put a data set on the device, where batches are made of its bytes."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.problems.examples import Examples, as_examples
from ckptlab.train.augment import Normalisation
from ckptlab.train.data_root import named_root
from ckptlab.train.datasets.images import Images, as_images, moments
from ckptlab.train.datasets.registry import (
    DATA_SOURCES,
    DataConfig,
    DataShape,
    OtherDataConfig,
)
from ckptlab.train.factories import Factory, call


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Data:
    """One data set on the device it is used on.

    Images are uint8 of shape (images, height, width, channels), labels int64. `normalise` is made
    from the training images; `flip` and `crop` are the augmentation.
    """

    shape: DataShape
    train: torch.Tensor
    train_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor
    normalise: Normalisation
    flip: bool
    crop: int
    classes: tuple[str, ...]


def data_shape(config: DataConfig) -> DataShape:
    """Return the sizes of a data set; the images of a user's are read for it.

    Raises
    ------
    DataError
        If an image folder is not of the expected form.
    """
    source = DATA_SOURCES.find(config.name, "data.name")
    if source.shape is not None:
        side = getattr(config, "image_size", None)
        return replace(source.shape, height=side, width=side) if side else source.shape
    if source.describe is None:
        return _shape_of(_images(config, download=True))
    described: DataShape = call(source.describe, "data.name", _settings(config))
    return described


_keeps = ContextVar("keeps", default=False)
_kept: dict[tuple[DataConfig, str], Data] = {}


@contextlib.contextmanager
def images_kept() -> Iterator[None]:
    """Within the block, keep the images read last for whatever learns or measures them next."""
    token = _keeps.set(True)
    try:
        yield
    finally:
        _keeps.reset(token)


def load_data(
    config: DataConfig, device: torch.device | str = "cpu", *, download: bool = True
) -> Data:
    """Read a data set and put it on a device; within `images_kept` at most once in a row.

    Parameters
    ----------
    config : DataConfig
        Which one, and its augmentation.
    device : device
        Where it is to lie.
    download : bool
        Whether files that are absent may be downloaded.

    Returns
    -------
    Data
        The images, their labels and their moments.

    Raises
    ------
    DataError
        If it is missing, incomplete or not of the expected form.
    """
    key = config, str(device)
    if not _keeps.get():
        return _load(config, device, download=download)
    if key not in _kept:
        _kept.clear()
        _kept[key] = _load(config, device, download=download)
    return _kept[key]


def _load(config: DataConfig, device: torch.device | str, *, download: bool) -> Data:
    images = _images(config, download=download)
    shape = _shape_of(images)
    flip, crop = augmentation_policy(config, shape)
    return Data(
        shape=shape,
        train=_to(images.train, device),
        train_labels=_to(images.train_labels, device),
        test=_to(images.test, device),
        test_labels=_to(images.test_labels, device),
        normalise=_normalisation(images.train, device),
        flip=flip,
        crop=crop,
        classes=images.classes,
    )


def _images(config: DataConfig, *, download: bool) -> Images:
    if isinstance(config, OtherDataConfig):
        return as_images(_own_data(config), f"data.name={config.name}")
    offered = _settings(config) | {"download": download}
    images: Images = call(DATA_SOURCES.find(config.name).load, "data.name", offered)
    return images


def read_some(config: DataConfig) -> float:
    """Read some of a data set, and return their share; 1 where reading takes next to no time."""
    source = DATA_SOURCES.find(config.name, "data.name")
    share = 1.0
    if source.read_some is not None:
        share = call(source.read_some, "data.name", _settings(config))
    return share


def _settings(config: DataConfig) -> dict[str, Any]:
    """Return the settings of a data set, which lies where the user says if they do not."""
    settings = config.model_dump()
    if "root" in settings:
        settings["root"] = settings["root"] or named_root()
    return settings


def own_halves(config: DataConfig) -> tuple[Examples, Examples] | None:
    """Return the training and test examples of a user's data set, or None if they are images."""
    found = _own_data(config) if isinstance(config, OtherDataConfig) else None
    if not isinstance(found, tuple | list) or len(found) != 2:
        return None
    train, test = found
    return (
        as_examples(train, f"data.name={config.name}: training data"),
        as_examples(test, f"data.name={config.name}: test data"),
    )


def _own_data(config: OtherDataConfig) -> Any:
    source = DATA_SOURCES.find(config.name, "data.name")
    return _loaded(source.load, json.dumps(config.options, sort_keys=True))


@functools.lru_cache(maxsize=1)
def _loaded(load: Factory, options: str) -> Any:
    """Read a user's data set, once for its shape and its examples."""
    return call(load, "data.name", {}, json.loads(options))


def _shape_of(images: Images) -> DataShape:
    count, height, width, channels = images.train.shape
    return DataShape(
        channels=channels,
        height=height,
        width=width,
        classes=len(images.classes),
        train=count,
        test=len(images.test),
    )


def augmentation_policy(config: DataConfig, shape: DataShape) -> tuple[bool, int]:
    """Return whether training images are mirrored, and the padding of their crop in pixels.

    ``data.flip`` and ``data.crop`` win over the data set's own policy.
    """
    source = DATA_SOURCES.find(config.name, "data.name")
    crop = min(shape.height, shape.width) // 8
    if source.crop is not None:
        # In proportion, where images are resized.
        crop = source.crop * shape.height // (source.shape or shape).height
    return (
        source.flip if config.flip is None else config.flip,
        crop if config.crop is None else config.crop,
    )


def _normalisation(images: npt.NDArray[np.uint8], device: torch.device | str) -> Normalisation:
    mean, std = moments(images)
    return Normalisation(
        scale=_to((1 / (255 * std)).astype(np.float32), device),
        shift=_to((-mean / std).astype(np.float32), device),
    )


def _to(array: npt.NDArray[np.generic], device: torch.device | str) -> torch.Tensor:
    # A copy: some sources hand out read-only arrays, which torch warns about.
    return torch.tensor(array, device=device)
