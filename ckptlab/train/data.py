"""The data of a training: bytes on the device, turned into batches there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.train.augment import Normalisation
from ckptlab.train.datasets.images import Images, moments
from ckptlab.train.datasets.registry import DATA_SOURCES, DataShape
from ckptlab.train.registry import find, resolve
from ckptlab.train.sections import DataConfig


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Data:
    """One data set on the device it is used on.

    Parameters
    ----------
    shape : DataShape
        Sizes.
    train, test : Tensor of uint8, shape (images, height, width, channels)
        The images.
    train_labels, test_labels : Tensor of int64, shape (images,)
        Index of the class of each.
    normalise : Normalisation
        Made from the training images.
    flip : bool
        Whether training images are mirrored at random.
    crop : int
        Padding of their random crop.
    classes : tuple of str
        Names of the classes.
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
    """Return the sizes of a data set without reading its images.

    Parameters
    ----------
    config : DataConfig
        Which one.

    Returns
    -------
    DataShape
        Its sizes.

    Raises
    ------
    DataError
        If an image folder is not of the expected form.
    """
    source = find(DATA_SOURCES, "data.name", config.name)
    if source.shape is not None:
        return source.shape
    described: DataShape = resolve(str(source.describe))(config)
    return described


def load_data(config: DataConfig, device: torch.device | str = "cpu") -> Data:
    """Read a data set and put it on a device.

    Parameters
    ----------
    config : DataConfig
        Which one, and its augmentation.
    device : device
        Where it is to lie.

    Returns
    -------
    Data
        The images, their labels and their moments.

    Raises
    ------
    DataError
        If it is missing, incomplete or not of the expected form.
    """
    source = find(DATA_SOURCES, "data.name", config.name)
    images: Images = resolve(source.load)(config)
    count, height, width, channels = images.train.shape
    shape = DataShape(
        channels=channels,
        height=height,
        width=width,
        classes=len(images.classes),
        train=count,
        test=len(images.test),
    )
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


def augmentation_policy(config: DataConfig, shape: DataShape) -> tuple[bool, int]:
    """Say what is done to training images at random.

    Parameters
    ----------
    config : DataConfig
        Its ``flip`` and ``crop`` win over the data set's own policy.
    shape : DataShape
        Of the images.

    Returns
    -------
    flip : bool
        Whether they are mirrored.
    crop : int
        Padding of their random crop, in pixels.
    """
    source = find(DATA_SOURCES, "data.name", config.name)
    crop = min(shape.height, shape.width) // 8 if source.crop is None else source.crop
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
