import numpy as np
import pytest
import xarray as xr
import zarr

from ckptlab.errors import CorruptError, StoreError
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.constants import INDEX, KEPT, NAMES, check_constants, write_constants
from ckptlab.store.format.layout import Layout, Tensor
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from ckptlab.store.write.writer import StoreWriter
from tests.store.samples import block_of, layout_of, trajectory, write_run


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr")
def test_zarr_reads_names_of_any_script_and_the_index(tmp_path):
    layout = Layout(
        (
            Tensor(name="größe.weight", shape=(3,), offset=0),
            Tensor(name="", shape=(0,), offset=3),
            Tensor(name="层.😀", shape=(2, 2), offset=3),
        )
    )
    write_run(tmp_path, trajectory(2, 7), layout)
    group = zarr.open_group(tmp_path, mode="r")
    assert group["tensor"][:].tolist() == ["größe.weight", "", "层.😀"]
    assert group["tensor_index"][:].tolist() == [0, 0, 0, 2, 2, 2, 2]


def test_each_is_compared_with_the_table(tmp_path):
    storage = open_storage(tmp_path)
    layout = layout_of(5, 6)
    write_constants(storage, layout)
    for key in (NAMES, INDEX):
        check_constants(storage, layout, key)
        data = storage.get(key)
        for position in range(len(data)):
            damaged = bytearray(data)
            damaged[position] ^= 1
            storage.put(key, [damaged])
            with pytest.raises(CorruptError):
                check_constants(storage, layout, key)
        storage.put(key, [data])
    for other in (layout_of(6, 5), layout_of(5), layout_of(1, 1, 9)):
        with pytest.raises(CorruptError):
            check_constants(storage, other, INDEX)
    with pytest.raises(CorruptError, match="not what the tensor table says"):
        check_constants(storage, layout_of(1, 2, 3), NAMES)
    storage.delete(NAMES)
    with pytest.raises(StoreError, match="missing"):
        check_constants(storage, layout, NAMES)
    assert np.array_equal(layout.tensor_index(), [0] * 5 + [1] * 6)


def masked_run(path, mask):
    layout = layout_of(5, 6)
    writer = StoreWriter.create(
        open_storage(path), layout, block=8, codec="dense", attributes={}, mask=mask
    )
    weights = np.where(mask, trajectory(3, 11), np.float32(0))
    writer.write_block(block_of(weights, 0, 3, layout=layout))
    writer.finish("complete")


MASK = np.array([True, False, True, True, False, False, True, True, True, False, True])


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr")
def test_a_mask_is_read_by_ckptlab_zarr_and_xarray(tmp_path):
    masked_run(tmp_path / "run.zarr", MASK)
    assert np.array_equal(open_store(tmp_path / "run.zarr").mask(), MASK)
    assert np.array_equal(zarr.open_group(tmp_path / "run.zarr", mode="r")["mask"][:], MASK)
    kept = xr.open_zarr(tmp_path / "run.zarr", chunks=None).mask
    assert kept.dims == ("param",)
    assert kept.dtype == bool
    assert verify(tmp_path / "run.zarr").ok
    write_run(tmp_path / "dense.zarr", trajectory(3, 11), layout_of(5, 6))
    assert open_store(tmp_path / "dense.zarr").mask() is None


def test_another_mask_than_the_run_was_made_with_is_refused(tmp_path):
    masked_run(tmp_path / "run.zarr", MASK)
    masked_run(tmp_path / "other.zarr", ~MASK)
    intact = (tmp_path / "run.zarr" / KEPT).read_bytes()
    damaged = [bytes([*intact[:i], byte ^ 1, *intact[i + 1 :]]) for i, byte in enumerate(intact)]
    for data in (*damaged, (tmp_path / "other.zarr" / KEPT).read_bytes(), b""):
        (tmp_path / "run.zarr" / KEPT).write_bytes(data)
        with pytest.raises(CorruptError, match="mask"):
            open_store(tmp_path / "run.zarr").mask()
        (finding,) = verify(tmp_path / "run.zarr").findings
        assert finding.array == "mask"
        assert finding.file == KEPT
