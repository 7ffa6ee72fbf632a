"""Steps, references and kinds: what is selected, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

import ckptlab
from ckptlab.analyze.engine.selection import select, select_columns
from ckptlab.analyze.engine.source import as_source
from ckptlab.analyze.engine.warnings import SelectionWarning
from ckptlab.errors import CkptlabError, LayoutError, StepError, UnknownNameError
from tests.analyze.recordings import Made


@pytest.mark.parametrize(
    ("steps", "selected"),
    [
        ("0:3", [0, 1, 2]),
        ("70:", [70, 71, 78, 85, 92, 99, 100]),
        ("71:100:14", [71, 85, 99]),
        (5, [5]),
        (slice(None, 10, 4), [0, 4, 8]),
        ("log:1", [0, 1, 10, 100]),
        ("3, 90:", [3, 92, 99, 100]),
    ],
)
def test_selects_recorded_steps(made: Made, steps, selected: list[int]) -> None:
    source = as_source(ckptlab.open_run(made.path))
    assert source.steps[select_columns(source, steps)].tolist() == selected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": "20:20"}, "'20:20' holds no step"),
        (
            {"steps": "72:77"},
            "steps=72:77 holds no recorded step; recorded: 77 steps from 0 to 100",
        ),
        ({"steps": "0:102"}, r"reaches beyond the last recorded step 100 .* Use steps=0:101"),
        ({"steps": "1-5"}, "'1-5' is not a step"),
        ({"steps": "1ep"}, "length of an epoch is not known"),
        ({"relative_to": "2000"}, "step 2000 was not recorded; .* Use relative_to=100"),
        ({"relative_to": 72}, "step 72 was not recorded; .* Use relative_to=71"),
        ({"relative_to": "initial"}, "Did you mean 'init'"),
        ({"by": "layers"}, "Did you mean 'layer'"),
        ({"kinds": "conv,linearr"}, "Did you mean 'linear'"),
        ({"kinds": "embedding"}, "selects no tensor"),
        ({"kind": "conv"}, "unknown option of sign-flips 'kind'. Did you mean 'kinds'"),
    ],
)
def test_refuses_what_does_not_exist(made: Made, options: dict, message: str) -> None:
    with pytest.raises(CkptlabError, match=message) as caught:
        ckptlab.open_run(made.path).analyze("sign-flips", **options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_unknown_metric_suggests_the_nearest(made: Made) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'sign-flips'"):
        ckptlab.open_run(made.path).analyze("sign_flip")


def test_kinds_as_text_or_list_and_layers_in_order(made: Made) -> None:
    source = as_source(ckptlab.open_run(made.path))
    text = select(source, kinds="norm, bias", by="layer")
    assert text.kinds == ("norm", "bias")
    assert text.names == ("conv", "norm", "big", "out")
    assert text.weights.tolist() == [5, 10, 120, 3]
    assert select(source, kinds=["norm", "bias"], by="layer").names == text.names
    whole = select(source, kinds="all")
    assert whole.weights.tolist() == [len(made.tensor)]


def test_a_dataset_without_step_0_has_no_init(wide: Made) -> None:
    part = xr.open_zarr(wide.path).isel(step=slice(5, 20))
    with pytest.raises(StepError, match="step 0 was not recorded"):
        part.ckpt.analyze("weight-distance")
    assert "cosine_init" not in part.ckpt.telemetry()
    assert "cosine_final" in part.ckpt.telemetry()


def test_a_dataset_without_the_table_is_refused(wide: Made) -> None:
    bare = xr.open_zarr(wide.path).drop_attrs()
    with pytest.raises(LayoutError, match="no tensor table in its attributes"):
        bare.ckpt.analyze("sign-flips")
    with pytest.raises(LayoutError, match="no weights, tensor_index"):
        xr.Dataset({"x": 1}).ckpt.analyze("sign-flips")


def test_a_model_without_conv_and_linear_weights_is_measured_by_its_matrices(tmp_path) -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = torch.nn.Parameter(torch.ones(3, 4))
            self.b = torch.nn.Parameter(torch.ones(5))

    with ckptlab.Recorder(tmp_path / "odd.zarr", Odd()) as recorder:
        recorder.step()
    run = ckptlab.open_run(tmp_path / "odd.zarr")
    with pytest.warns(SelectionWarning, match="its 1 matrices"):
        result = run.analyze("weight-magnitude")
    assert result.attrs["kinds"] == "matrices"
    assert result.attrs["weights"] == 12


def test_the_mask_of_a_run_applies(tmp_path) -> None:
    model = torch.nn.Linear(4, 3)
    keep = np.arange(15) % 2 == 0
    with torch.no_grad():
        model.weight.view(-1)[~torch.from_numpy(keep[:12])] = 0
        model.bias[~torch.from_numpy(keep[12:])] = 0
    path = tmp_path / "sparse.zarr"
    with ckptlab.Recorder(path, model, mask=keep) as recorder:
        recorder.step()
    kept = np.abs(model.weight.detach().numpy().ravel()[keep[:12]]).mean()
    result = ckptlab.open_run(path).analyze("weight-magnitude")
    np.testing.assert_allclose(result, [kept, kept], rtol=1e-6)
    assert result.attrs["mask"] == "of the run"
    assert result.attrs["weights"] == 6
