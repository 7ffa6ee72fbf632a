import numpy as np
import pytest
import zarr

from ckptlab.errors import CorruptError, StoreError
from ckptlab.store.constants import INDEX, NAMES, check_constants, write_constants
from ckptlab.store.layout import Layout, Tensor
from ckptlab.store.storage import open_storage
from tests.store.samples import layout_of, trajectory, write_run


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
