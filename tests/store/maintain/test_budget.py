"""Memory of a check: counted beforehand, and not grown by parameters."""

from __future__ import annotations

import tracemalloc

import pytest

from ckptlab.errors import ConfigError, StoreError
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.constants import INDEX, check_constants, write_constants
from ckptlab.store.maintain.verify import verify
from tests.store.samples import layout_of, trajectory, write_run

LAYOUT = layout_of(20_000, 30_000)


def test_the_index_of_many_parameters_is_compared_in_stretches(tmp_path) -> None:
    layout = layout_of(*[5_000_000] * 8)
    storage = open_storage(tmp_path / "run.zarr", fsync=False)
    write_constants(storage, layout)
    tracemalloc.start()
    check_constants(storage, layout, INDEX)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6  # the index has 160 MB
    with pytest.raises(StoreError, match="not what the tensor table says"):
        check_constants(storage, layout_of(*[5_000_000] * 7, 4_999_999, 1), INDEX)


def test_memory_is_counted_beforehand_and_too_little_is_refused(tmp_path) -> None:
    path = tmp_path / "run.zarr"
    write_run(path, trajectory(9, LAYOUT.parameters), LAYOUT)
    report = verify(path, deep=True, memory=2**31)
    assert report.ok
    assert 0 < report.memory <= 2**31
    with pytest.raises(ConfigError, match="give at least") as error:
        verify(path, memory=2**20)
    assert error.value.parameter == "memory"
    least = int(str(error.value.fix).removesuffix("MiB")) * 2**20
    assert verify(path, deep=True, memory=least).memory <= least
