import struct

import numpy as np
import pytest
from PIL import Image

from ckptlab.errors import DataError
from ckptlab.train.data import data_shape, load_data
from ckptlab.train.datasets.registry import VisionConfig
from ckptlab.train.datasets.vision import load


def write_idx(path, array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")]
)
def test_files_that_are_there_are_read(tmp_path, name, folder):
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    halves = {}
    for half, count in (("train", 30), ("t10k", 10)):
        images = generator.integers(0, 256, (count, 28, 28), np.uint8)
        labels = generator.integers(0, 10, count).astype(np.uint8)
        write_idx(raw / f"{half}-images-idx3-ubyte", images)
        write_idx(raw / f"{half}-labels-idx1-ubyte", labels)
        halves[half] = images, labels
    read = load(name, str(tmp_path))
    assert np.array_equal(read.train[..., 0], halves["train"][0])
    assert np.array_equal(read.train_labels, halves["train"][1])
    assert np.array_equal(read.test[..., 0], halves["t10k"][0])
    assert len(read.classes) == 10
    assert load_data(VisionConfig(name=name, root=str(tmp_path))).flip == (name != "mnist")
    small = VisionConfig(name=name, root=str(tmp_path), image_size=7)
    resized = load_data(small)
    expected = Image.fromarray(halves["train"][0][3]).resize((7, 7), Image.Resampling.BILINEAR)
    assert np.array_equal(resized.train[3, ..., 0].numpy(), np.asarray(expected))
    # Resized fourfold, images are cropped by a fourth as much.
    assert resized.crop == load_data(VisionConfig(name=name, root=str(tmp_path))).crop // 4
    shape = data_shape(small)
    assert (shape.height, shape.width, shape.channels) == (7, 7, 1)


@pytest.mark.parametrize("name", ["cifar10", "svhn", "mnist"])
def test_a_download_that_fails_says_what_to_do(tmp_path, monkeypatch, name):
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        # Nothing listens there, so every connection is refused at once.
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    # urllib keeps the proxies of its first request for good.
    monkeypatch.setattr("urllib.request._opener", None)
    with pytest.raises(DataError, match=r"data\.root") as caught:
        load(name, str(tmp_path))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_root_that_is_a_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(DataError, match=r"data\.root"):
        load("cifar10", str(path))
