"""Which data sets there are, what shape they have and which settings apply to them."""

from __future__ import annotations

from dataclasses import dataclass


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
    load : str
        ``"module:function"``, called as ``f(config)`` with the `DataConfig`, returns `Images`.
    summary : str
        One line of documentation.
    shape : DataShape or None
        Where it is fixed.
    describe : str or None
        Where it is not: ``"module:function"`` that returns the `DataShape` of a `DataConfig`.
    options : tuple of str
        Fields of `DataConfig` that apply, besides ``flip`` and ``crop``, which always do.
    required : tuple of str
        Those of them that have no default.
    flip : bool
        Whether images are mirrored at random unless ``data.flip`` says otherwise.
    crop : int or None
        Padding of the random crop, in pixels, unless ``data.crop`` says otherwise; None is an
        eighth of the smaller side.
    """

    name: str
    load: str
    summary: str
    shape: DataShape | None = None
    describe: str | None = None
    options: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
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
        options=("root",),
        flip=flip,
        crop=crop,
    )


def _shape(channels: int, size: int, classes: int, train: int, test: int) -> DataShape:
    return DataShape(
        channels=channels, height=size, width=size, classes=classes, train=train, test=test
    )


DATA_SOURCES: tuple[DataSource, ...] = (
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
        summary="image files under root/train/<class>/ and root/test/<class>/",
        options=("root", "image_size", "channels"),
        required=("root",),
        flip=True,
    ),
    DataSource(
        name="synthetic",
        load="ckptlab.train.datasets.synthetic:load",
        describe="ckptlab.train.datasets.synthetic:describe",
        summary="seeded noise around one pattern a class, of any size",
        options=("image_size", "channels", "classes", "samples", "seed"),
    ),
)
