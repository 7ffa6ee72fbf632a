import numpy as np
import pytest
from PIL import Image

from ckptlab.errors import DataError
from ckptlab.train.data import data_shape, load_data
from ckptlab.train.data_root import VARIABLE
from ckptlab.train.datasets.imagefolder import load
from ckptlab.train.datasets.registry import ImageFolderConfig


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    """Three classes of 5 training and 2 test images of 16x12 pixels."""
    generator = np.random.default_rng(0)
    for half, count in (("train", 5), ("test", 2)):
        for name in ("cat", "ant", "bee"):
            for i in range(count):
                pixels = generator.integers(0, 256, (12, 16, 3), np.uint8)
                write(tmp_path / half / name / f"{i}.png", pixels)
    return tmp_path


def config(folder, **settings):
    return ImageFolderConfig(name="imagefolder", root=str(folder), **settings)


def read(config):
    return load(config.root, config.image_size, config.channels)


def test_files_come_in_sorted_order_bit_for_bit(folder):
    (folder / "train" / "ant" / "notes.txt").write_text("not an image")
    (folder / "train" / ".cache").mkdir()
    images = read(config(folder))
    assert images.classes == ("ant", "bee", "cat")
    paths = sorted((folder / "train").glob("*/*.png"))
    expected = np.stack([np.asarray(Image.open(path)) for path in paths])
    assert np.array_equal(images.train, expected)
    assert images.train_labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert images.test_labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_more_files_than_are_read_at_a_time(tmp_path):
    for half in ("train", "test"):
        for name in ("a", "b"):
            for i in range(300):
                write(tmp_path / half / name / f"{i:03}.png", np.full((1, 1), i % 256, np.uint8))
    images = read(config(tmp_path, channels=1))
    assert np.array_equal(images.train.ravel(), np.tile(np.arange(300) % 256, 2))


def test_shape_is_known_without_reading_all(folder):
    shape = data_shape(config(folder))
    assert (shape.channels, shape.height, shape.width) == (3, 12, 16)
    assert (shape.classes, shape.train, shape.test) == (3, 15, 6)
    data = load_data(config(folder))
    assert data.shape == shape
    # An eighth of the smaller side.
    assert (data.flip, data.crop) == (True, 1)
    data = load_data(config(folder, flip=False, crop=3))
    assert (data.flip, data.crop) == (False, 3)


def test_images_are_brought_to_one_size_when_asked(folder):
    write(folder / "train" / "ant" / "large.png", np.zeros((40, 20, 3), np.uint8))
    images = read(config(folder, image_size=8))
    assert images.train.shape == (16, 8, 8, 3)
    assert read(config(folder, image_size=8, channels=1)).test.shape == (6, 8, 8, 1)


def test_the_middle_is_cut_out(tmp_path):
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 200
    for half in ("train", "test"):
        for name in ("a", "b"):
            write(tmp_path / half / name / "0.png", pixels)
    assert (read(config(tmp_path, image_size=10)).train == 200).all()


def spoil_nothing_there(folder):
    return folder / "absent", "no folder train/"


def spoil_test(folder):
    (folder / "test").rename(folder / "validation")
    return folder, "no folder test/"


def spoil_two_test_classes(folder):
    for name in ("ant", "cat"):
        (folder / "test" / name).rename(folder / f"moved-{name}")
    return folder, "test/ lacks the classes 'ant', 'cat' of train/"


def spoil_train_class(folder):
    (folder / "train" / "bee").rename(folder / "moved")
    return folder, "train/ lacks the class 'bee' of test/"


def spoil_empty_class(folder):
    for path in (folder / "train" / "bee").iterdir():
        path.unlink()
    return folder, "bee' holds no image"


def spoil_size(folder):
    write(folder / "train" / "cat" / "odd.png", np.zeros((9, 16, 3), np.uint8))
    return folder, "16 x 9 pixels.*16 x 12.*data.image_size"


def spoil_halves(folder):
    for path in (folder / "test").glob("*/*.png"):
        write(path, np.zeros((9, 16, 3), np.uint8))
    return folder, "alike"


def spoil_file(folder):
    (folder / "train" / "cat" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    return folder, "3.png' cannot be read as an image"


def spoil_single_class(folder):
    for half in ("train", "test"):
        for name in ("ant", "cat"):
            (folder / half / name).rename(folder / f"{half}-{name}")
    return folder, "1 class folders in train/; at least 2"


def spoil_flat(folder):
    for half in ("train", "test"):
        for name in ("ant", "bee", "cat"):
            (folder / half / name).rename(folder / f"{half}-{name}")
    return folder, "0 class folders in train/; at least 2"


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_nothing_there,
        spoil_test,
        spoil_two_test_classes,
        spoil_train_class,
        spoil_empty_class,
        spoil_size,
        spoil_halves,
        spoil_file,
        spoil_single_class,
        spoil_flat,
    ],
)
def test_a_folder_of_another_form_is_refused_in_one_line(folder, spoil):
    root, said = spoil(folder)
    with pytest.raises(DataError, match=said) as caught:
        read(config(root))
    assert "\n" not in str(caught.value)


def test_a_folder_that_settings_leave_out_is_the_one_the_user_named(folder, monkeypatch):
    unnamed = ImageFolderConfig(name="imagefolder")
    monkeypatch.delenv(VARIABLE, raising=False)
    for read_it in (data_shape, load_data):
        with pytest.raises(DataError, match=r"data\.root is not set.*--data-root DIR") as caught:
            read_it(unnamed)
        assert "\n" not in str(caught.value)
    monkeypatch.setenv(VARIABLE, str(folder))
    assert data_shape(unnamed).train == len(load_data(unnamed).train) == 15


def test_images_that_are_added_count_at_once(folder):
    before = data_shape(config(folder)).train
    write(folder / "train" / "cat" / "new.png", np.zeros((12, 16, 3), np.uint8))
    assert data_shape(config(folder)).train == before + 1
