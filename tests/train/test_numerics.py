import pytest
import torch

from ckptlab.train.numerics import numerics
from ckptlab.train.sections import TrainConfig


def switches():
    return (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
    )


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_switches_are_set_and_put_back(precision):
    before = switches()
    seen = []

    def compute_and_fail():
        with numerics(TrainConfig(threads=3, precision=precision), torch.device("cpu")):
            seen.append(switches())
            raise KeyError

    with pytest.raises(KeyError):
        compute_and_fail()
    tf32 = precision == "tf32"
    assert seen == [(3, True, False, tf32, tf32)]
    assert switches() == before


def test_threads_and_determinism_are_left_where_asked():
    before = switches()
    with numerics(TrainConfig(deterministic=False), torch.device("cpu")):
        assert switches()[:2] == (before[0], False)


def test_precision_that_was_set_by_its_newer_name_is_put_back():
    """torch then refuses to read the older name."""
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("this torch has the older name alone")
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        with pytest.raises(RuntimeError, match="allow_tf32"):
            _ = matmul.allow_tf32
        with numerics(TrainConfig(precision="fp32"), torch.device("cpu")):
            assert matmul.fp32_precision != "tf32"
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before
