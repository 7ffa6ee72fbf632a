"""Results are found by file and by folder, and read whole while they are being replaced."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import xarray as xr

from ckptlab.analyze.io import save_dataset
from ckptlab.errors import StoreError
from ckptlab.experiments.results.open import find_results, load_results, open_results


def made(value: int) -> xr.Dataset:
    data = {
        "accuracy": ("level", np.full(50, float(value))),
        "state": ("level", np.full(50, str(value), object)),
        "mask": (("param", "level"), np.ones((3, 50), bool)),
    }
    return xr.Dataset(data, attrs={"kind": "imp", "jobs": 50, "title": str(value)})


def test_a_folder_stands_for_its_results(tmp_path):
    save_dataset(made(1), tmp_path / "results.zarr")
    assert find_results(tmp_path) == tmp_path / "results.zarr"
    assert find_results(tmp_path / "results.zarr") == tmp_path / "results.zarr"
    assert find_results(tmp_path / "none") is None
    assert find_results("s3://bucket/results.zarr") is None
    assert open_results(tmp_path)["mask"].shape == (3, 50)
    loaded = load_results(tmp_path)
    assert "mask" not in loaded
    assert (loaded["accuracy"] == 1).all()
    with pytest.raises(StoreError, match="holds no results"):
        load_results(tmp_path / "none")


def test_what_is_read_is_of_one_moment(tmp_path):
    path = tmp_path / "results.zarr"
    save_dataset(made(0), path)
    stop = threading.Event()

    def replace() -> None:
        value = 0
        while not stop.is_set():
            value += 1
            save_dataset(made(value), path)
            stop.wait(0.25)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(10):
            loaded = load_results(path)
            title = loaded.attrs["title"]
            assert (loaded["accuracy"] == float(title)).all()
            assert (loaded["state"] == title).all()
    finally:
        stop.set()
        writer.join()
