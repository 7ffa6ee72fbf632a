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
