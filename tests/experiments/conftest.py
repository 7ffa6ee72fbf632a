"""One dense run for all tests of experiments."""

import pytest
import torch

from tests.experiments.small import record_dense


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def dense(tmp_path_factory):
    """Steps 0 to 48, blocks of 32."""
    torch.set_num_threads(1)
    return record_dense(tmp_path_factory.mktemp("dense") / "dense.zarr")
