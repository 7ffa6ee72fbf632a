"""Name the data sets, their shapes and the settings each takes."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from ckptlab.registry import Registry
from ckptlab.train.factories import Factory
from ckptlab.train.sections import (
    OTHER,
    Choice,
    Count,
    Seed,
    Whole,
    by_name,
    name_of,
    options_of,
    setting,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataShape:
    """Size of a data set, known before its images are read.

    Parameters
    ----------
    channels, height, width : int
        Shape of one image.
    classes : int
        Number of classes.
    train, test : int
        Number of images.
    """

    channels: int
    height: int
    width: int
    classes: int
    train: int
    test: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSource:
    """One data set.

    Parameters
    ----------
    name : str
        What users write.
    load : callable or str
        Returns `Images`; called with those settings of the data set it has parameters for.
    summary : str
        One line of documentation.
    shape : DataShape or None
        Where it is fixed.
    describe : str or None
        Called as `load` is where the shape depends on the settings; returns the `DataShape`.
    read_some : str or None
        Where reading takes long: called as `load` is, reads some images and returns their share.
    flip : bool
        Whether images are mirrored at random unless ``data.flip`` says otherwise.
    crop : int or None
        Padding of the random crop, in pixels, unless ``data.crop`` says otherwise; None is an
        eighth of the smaller side.
    """

    name: str
    load: Factory
    summary: str
    shape: DataShape | None = None
    describe: str | None = None
    read_some: str | None = None
    flip: bool = False
    crop: int | None = None


def _vision(
    name: str, shape: DataShape, summary: str, *, flip: bool = False, crop: int = 4
) -> DataSource:
    return DataSource(
        name=name,
        load="ckptlab.train.datasets.vision:load",
        summary=summary,
        shape=shape,
        flip=flip,
        crop=crop,
    )


def _shape(channels: int, size: int, classes: int, train: int, test: int) -> DataShape:
    return DataShape(
        channels=channels, height=size, width=size, classes=classes, train=train, test=test
    )


def data_source(
    name: str, load: Any, summary: str = "", flip: bool = False, crop: int = 0
) -> DataSource:
    """Make an entry of a user's function, which returns images and labels of both halves."""
    if not callable(load):
        raise TypeError("a data set is a function that returns images and labels")
    doc = inspect.getdoc(load) or ""
    summary = summary or doc.partition("\n")[0]
    return DataSource(name=name, load=load, summary=summary, flip=flip, crop=crop)


DATA_SOURCES: Registry[DataSource] = Registry(
    "data set",
    (
        DataSource(
            name="digits",
            load="ckptlab.train.datasets.digits:load",
            summary="1,797 handwritten digits of 8x8 pixels, part of scikit-learn; split 80/20",
            shape=_shape(1, 8, 10, 1437, 360),
            crop=1,
        ),
        _vision("cifar10", _shape(3, 32, 10, 50_000, 10_000), "CIFAR-10", flip=True),
        _vision("cifar100", _shape(3, 32, 100, 50_000, 10_000), "CIFAR-100", flip=True),
        _vision("mnist", _shape(1, 28, 10, 60_000, 10_000), "MNIST", crop=2),
        _vision("fashion-mnist", _shape(1, 28, 10, 60_000, 10_000), "Fashion-MNIST", flip=True),
        _vision("svhn", _shape(3, 32, 10, 73_257, 26_032), "Street View House Numbers"),
        DataSource(
            name="imagefolder",
            load="ckptlab.train.datasets.imagefolder:load",
            describe="ckptlab.train.datasets.imagefolder:describe",
            read_some="ckptlab.train.datasets.imagefolder:read_some",
            summary="image files under root/train/<class>/ and root/test/<class>/",
            flip=True,
        ),
        DataSource(
            name="synthetic",
            load="ckptlab.train.datasets.synthetic:load",
            describe="ckptlab.train.datasets.synthetic:describe",
            summary="seeded noise around one pattern a class, of any size",
        ),
    ),
    adapt=data_source,
    group="ckptlab.datasets",
)


class DataConfig(Choice):
    """The data set and its augmentation."""

    name: str = setting("digits", "which data set", "a data name")
    flip: bool | None = setting(
        None, "mirror at random; default: the data set's policy", "true or false"
    )
    crop: Whole | None = setting(
        None, "pad by this and crop at random; default: the data set's policy", "pixels, 0: off"
    )


RESIZED = "resize and crop the middle to this side"


class DigitsConfig(DataConfig):
    """The digits that come with scikit-learn."""

    name: Literal["digits"] = setting("digits", "which data set", "a data name")


class VisionConfig(DataConfig):
    """Data sets that torchvision reads."""

    name: Literal["cifar10", "cifar100", "mnist", "fashion-mnist", "svhn"] = setting(
        ..., "which data set", "a data name"
    )
    root: str | None = setting(None, "folder that holds the files, or is to", "a path")
    image_size: Count | None = setting(None, RESIZED, "a whole number >= 1")


class ImageFolderConfig(DataConfig):
    """Image files in one folder a class."""

    name: Literal["imagefolder"] = setting(..., "which data set", "a data name")
    root: str | None = setting(None, "folder of train/<class>/ and test/<class>/", "a path")
    image_size: Count | None = setting(None, RESIZED, "a whole number >= 1")
    channels: Literal[1, 3] = setting(3, "grey or colour", "1 or 3")


class SyntheticConfig(DataConfig):
    """Made-up images."""

    name: Literal["synthetic"] = setting("synthetic", "which data set", "a data name")
    image_size: Count = setting(32, "side of the images", "a whole number >= 1")
    channels: Literal[1, 3] = setting(3, "grey or colour", "1 or 3")
    classes: Annotated[int, Field(ge=2)] = setting(10, "number of classes", "a whole number >= 2")
    samples: Annotated[int, Field(ge=2)] = setting(
        2048, "training images; a quarter more for the test", "a whole number >= 2"
    )
    seed: Seed = setting(0, "what they are drawn from", "a whole number >= 0")


class OtherDataConfig(DataConfig):
    """A data set of your own."""

    name: Annotated[str, name_of(DATA_SOURCES)] = setting(
        ..., "which data set", "a data name or module:object"
    )
    options: dict[str, Any] = options_of("data set")


_TAGS = {
    "digits": "digits",
    **dict.fromkeys(("cifar10", "cifar100", "mnist", "fashion-mnist", "svhn"), "vision"),
    "imagefolder": "imagefolder",
    "synthetic": "synthetic",
}

DataSet = Annotated[
    Annotated[DigitsConfig, Tag("digits")]
    | Annotated[VisionConfig, Tag("vision")]
    | Annotated[ImageFolderConfig, Tag("imagefolder")]
    | Annotated[SyntheticConfig, Tag("synthetic")]
    | Annotated[OtherDataConfig, Tag(OTHER)],
    by_name("digits", _TAGS),
]
