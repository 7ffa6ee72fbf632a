"""Masks from memory, .npy and .zarr; masks of other models are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import ckptlab
from ckptlab.errors import DataError, LayoutError
from tests.analyze.recordings import Made


@pytest.fixture
def zarr_file(made: Made, mask: np.ndarray, tmp_path: Path) -> Path:
    """Masks of levels 0 and 3 with the tensor table of the run."""
    levels = np.stack([np.ones_like(mask), mask], axis=1)
    tensors = ckptlab.open_run(made.path).attributes["tensors"]
    path = tmp_path / "results.zarr"
    dataset = xr.Dataset(
        {"mask": (("param", "level"), levels)}, {"level": [0, 3]}, {"tensors": tensors}
    )
    dataset.to_zarr(path, zarr_format=3, consolidated=False)
    return path


def test_every_form_of_a_mask_is_the_same(
    made: Made, mask: np.ndarray, mask_file: Path, zarr_file: Path
) -> None:
    run = ckptlab.open_run(made.path)
    expected = run.analyze("weight-magnitude", mask=mask)
    for form in (mask_file, str(mask_file), f"{zarr_file}@3", zarr_file, mask.astype(np.uint8)):
        result = run.analyze("weight-magnitude", mask=form)
        np.testing.assert_array_equal(result.values, expected.values)
    assert run.analyze("weight-magnitude", mask=mask_file).attrs["mask"] == str(mask_file)
    dense = run.analyze("weight-magnitude", mask=f"{zarr_file}@0")
    np.testing.assert_array_equal(dense.values, run.analyze("weight-magnitude").values)


def test_a_mask_of_another_model_is_refused(made: Made, zarr_file: Path) -> None:
    run = ckptlab.open_run(made.path)
    with pytest.raises(LayoutError, match=r"shape \(10\), .* has \d+ parameters: .* another model"):
        run.analyze("sign-flips", mask=np.ones(10, bool))
    with pytest.raises(LayoutError, match="values other than 0 and 1"):
        run.analyze("sign-flips", mask=np.full(len(made.tensor), 0.5))
    with pytest.raises(LayoutError, match="keeps no weight; True keeps one"):
        run.analyze("sign-flips", mask=np.zeros(len(made.tensor), bool))
    only_norms = np.isin(made.tensor, [made.names.index("norm.weight")])
    with pytest.raises(LayoutError, match="keeps no weight of kinds conv,linear; use kinds=all"):
        run.analyze("sign-flips", mask=only_norms)
    assert run.analyze("sign-flips", mask=only_norms, kinds="all").attrs["weights"] == 5
    import zarr

    group = zarr.open_group(zarr_file)
    tensors = [dict(row) for row in group.attrs["tensors"]]
    tensors[0]["name"], tensors[1]["name"] = "a", "b"
    group.attrs["tensors"] = tensors
    with pytest.raises(LayoutError, match="made for another model: its tensor table differs"):
        run.analyze("sign-flips", mask=zarr_file)


def test_files_that_are_no_mask_are_named(made: Made, zarr_file: Path, tmp_path: Path) -> None:
    run = ckptlab.open_run(made.path)
    text = tmp_path / "x.npy"
    text.write_text("no array")
    pickled = tmp_path / "p.npy"
    np.save(pickled, np.array([{}], object), allow_pickle=True)
    for form, message in (
        ("none.npy", "does not exist"),
        ("mask.txt", "neither FILE.npy nor FILE.zarr"),
        (text, "is not a NumPy array file"),
        (pickled, "is not a NumPy array file"),
        (f"{zarr_file}@7", "no mask of level '7'; it has: 0, 3"),
        (tmp_path / "none.zarr", "holds no array `mask`"),
        (made.path, "holds no array `mask`"),
    ):
        with pytest.raises(DataError, match=message):
            run.analyze("sign-flips", mask=form)
