"""Hold a data set once it is read: images as bytes, and their labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ckptlab.errors import DataError

# What fits into a core's cache at once, with room, for small images.
_TOGETHER = 256


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Images:
    """Training and test images of one data set, in host memory.

    Parameters
    ----------
    train, test : ndarray of uint8, shape (images, height, width, channels)
        The images.
    train_labels, test_labels : ndarray of int64, shape (images,)
        Index of the class of each.
    classes : tuple of str
        Names of the classes.

    Raises
    ------
    DataError
        If one half is empty, or the halves do not agree.
    """

    train: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.int64]
    test: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for half, images, labels in (
            ("train", self.train, self.train_labels),
            ("test", self.test, self.test_labels),
        ):
            if images.ndim != 4 or images.dtype != np.uint8 or len(images) == 0:
                raise DataError(f"the {half} images are {images.dtype} of shape {images.shape}")
            if labels.shape != (len(images),):
                raise DataError(f"{len(images)} {half} images have labels of shape {labels.shape}")
        if self.train.shape[1:] != self.test.shape[1:]:
            raise DataError(
                f"training images are of shape {self.train.shape[1:]}, test images of "
                f"{self.test.shape[1:]}; both halves must be alike"
            )


def as_images(loaded: object, parameter: str) -> Images:
    """Make `Images` of what a user's data set returns.

    Parameters
    ----------
    loaded : Images or tuple
        Of arrays or tensors: training images, their labels, test images, their labels. Images are
        bytes of shape (images, height, width) or (images, height, width, channels).
    parameter : str
        The setting that names the data set, for errors.

    Returns
    -------
    Images
        With classes named by their numbers, unless they were `Images`.

    Raises
    ------
    DataError
        If they are something else.
    """
    if isinstance(loaded, Images):
        return loaded
    if not isinstance(loaded, tuple | list) or len(loaded) != 4:
        raise DataError(
            f"{parameter} returns {type(loaded).__name__}; it must return (training images, "
            "their labels, test images, their labels), or two data sets for training and test"
        )
    train, train_labels, test, test_labels = map(np.asarray, loaded)
    labels = [_whole(parameter, part) for part in (train_labels, test_labels)]
    halves = [part[..., None] if part.ndim == 3 else part for part in (train, test)]
    if any(part.dtype != np.uint8 or part.ndim != 4 for part in halves):
        raise DataError(
            f"{parameter} returns images of {train.dtype} and shape {train.shape}; they must be "
            "uint8, 0 to 255, of shape (images, height, width) or (images, height, width, channels)"
        )
    count = 1 + max(int(part.max(initial=0)) for part in labels)
    return Images(
        train=np.ascontiguousarray(halves[0]),
        train_labels=labels[0],
        test=np.ascontiguousarray(halves[1]),
        test_labels=labels[1],
        classes=tuple(map(str, range(count))),
    )


def _whole(parameter: str, labels: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    if labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
        raise DataError(
            f"{parameter} returns labels of {labels.dtype}; they must be whole numbers from 0 on"
        )
    return labels.astype(np.int64)


def moments(
    images: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and standard deviation of each channel of uint8 images, in [0, 1].

    The deviation is 1 where a channel is constant, so that dividing by it is harmless.
    """
    values = np.arange(256) / 255
    # Counting the 256 values is exact, and needs no copy of the images as floats.
    counts = np.zeros((images.shape[3], 256), np.int64)
    for start in range(0, len(images), _TOGETHER):
        pixels = images[start : start + _TOGETHER].reshape(-1, images.shape[3])
        for channel in range(images.shape[3]):
            counts[channel] += np.bincount(pixels[:, channel], minlength=256)
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(1))
    return mean, np.where(std > 0, std, 1.0)
