import numpy as np
import pytest
import torch
from torch import nn

from ckptlab.record.pipeline.gradients import GradientNorms, write_gradients


def model_with(*present, dtype=torch.float32, sparse=False):
    """Four parameters of sizes from none to many; those present have a gradient."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(n, dtype=dtype)) for n in (3, 1, 5000, 0)]
    if sparse:
        parameters[2] = nn.Parameter(torch.randn(500, 10))
    for index in present:
        gradient = torch.randn_like(parameters[index])
        if sparse and index == 2:
            rows = torch.tensor([[5, 7, 5]])
            values = torch.randn(3, 10)
            gradient = torch.sparse_coo_tensor(rows, values, (500, 10), check_invariants=True)
        parameters[index].grad = gradient
    return parameters


@pytest.mark.parametrize("present", [(0, 1, 2, 3), (1, 2), (3,), ()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_are_those_of_numpy(present, dtype):
    parameters = model_with(*present, dtype=dtype)
    norm, mean = torch.zeros(4), torch.zeros(4)
    norms = GradientNorms(parameters)
    for _ in range(2):
        assert norms.write(norm, mean) is bool(present)
        for index, parameter in enumerate(parameters):
            if index in present:
                gradient = parameter.grad.double().numpy()
                assert norm[index] == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
                expected = np.abs(gradient).mean() if gradient.size else 0
                assert mean[index] == pytest.approx(expected, rel=1e-5)
            else:
                assert torch.isnan(norm[index])
                assert torch.isnan(mean[index])


def test_which_have_gradients_may_change_from_step_to_step():
    parameters = model_with(0, 1, 2, 3)
    norms, norm, mean = GradientNorms(parameters), torch.zeros(4), torch.zeros(4)
    for missing in (2, 0, None, 1):
        gradients = [p.grad for p in parameters]
        if missing is not None:
            parameters[missing].grad = None
        norms.write(norm, mean)
        assert [bool(torch.isnan(v)) for v in norm] == [i == missing for i in range(4)]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient


def test_sparse_gradients_count_their_duplicates_once():
    parameters = model_with(0, 1, 2, 3, sparse=True)
    norm, mean = torch.zeros(4), torch.zeros(4)
    GradientNorms(parameters).write(norm, mean)
    dense = parameters[2].grad.to_dense()
    assert norm[2] == pytest.approx(float(dense.norm()), rel=1e-5)
    assert mean[2] == pytest.approx(float(dense.abs().mean()), rel=1e-5)
    places = [torch.zeros_like(p) for p in parameters]
    write_gradients(parameters, places)
    assert torch.equal(places[2], dense)


def test_non_finite_gradients_stay_visible():
    parameters = model_with(0, 1, 2, 3)
    parameters[0].grad[1] = torch.nan
    parameters[1].grad[0] = torch.inf
    norm, mean = torch.zeros(4), torch.zeros(4)
    GradientNorms(parameters).write(norm, mean)
    assert torch.isnan(norm[0])
    assert torch.isinf(norm[1])
    assert torch.isfinite(norm[2])


def test_missing_gradients_are_nan():
    parameters = model_with(1)
    places = [torch.zeros_like(p) for p in parameters]
    write_gradients(parameters, places)
    assert torch.equal(places[1], parameters[1].grad)
    assert all(torch.isnan(places[i]).all() for i in (0, 2, 3))
