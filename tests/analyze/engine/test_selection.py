"""Steps, references and kinds: what is selected, and what is refused."""

from __future__ import annotations

import pytest
import xarray as xr

import ckptlab
from ckptlab.analyze.engine.selection import select, select_columns
from ckptlab.analyze.engine.source import as_source
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
        ({"steps": "72:77"}, "hold no recorded step; recorded: 77 steps from 0 to 100"),
        ({"steps": "0:102"}, r"reach beyond the last recorded step 100 .* Use 0:101"),
        ({"steps": "1-5"}, "'1-5' is not a step"),
        ({"steps": "1ep"}, "length of an epoch is not known"),
        ({"relative_to": "2000"}, "step 2000 was not recorded; .* Use relative_to=100"),
        ({"relative_to": 72}, "step 72 was not recorded; .* Use relative_to=71"),
        ({"relative_to": "initial"}, "Did you mean 'init'"),
        ({"by": "layers"}, "Did you mean 'layer'"),
        ({"kinds": "conv,linearr"}, "Did you mean 'linear'"),
        ({"kinds": "embedding"}, "select no tensor"),
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
