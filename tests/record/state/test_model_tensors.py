import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from ckptlab.errors import ConfigError, RecordingError, UnsupportedTensorError
from ckptlab.record.state.model_tensors import capture
from ckptlab.record.state.naming import unwrap
from tests.record.loops import Everything


def rows(captured):
    return {t.name: t for t in captured.layout.tensors}


def test_the_table_describes_the_model():
    model = Everything()
    captured = capture(model)
    table = rows(captured)
    assert list(table) == [name for name, _ in model.named_parameters()]
    assert captured.layout.parameters == sum(p.numel() for p in model.parameters())
    assert table["embedding.weight"].aliases == ("head.weight",)
    assert not table["frozen.weight"].trainable
    assert table["first.weight"].trainable
    assert table["low.weight"].dtype == "bfloat16"
    assert table["scale"].shape == ()
    kinds = {name: tensor.kind for name, tensor in table.items()}
    assert kinds == {
        "scale": "other",
        "embedding.weight": "embedding",
        "first.weight": "linear",
        "first.bias": "bias",
        "frozen.weight": "linear",
        "frozen.bias": "bias",
        "norm.weight": "norm",
        "norm.bias": "norm",
        "low.weight": "linear",
        "low.bias": "bias",
    }
    assert [t.prunable for t in captured.layout.tensors] == [
        t.kind in ("conv", "linear") for t in captured.layout.tensors
    ]
    arrays = {b.name: (b.array, b.dtype, b.shape) for b in captured.layout.buffers}
    assert arrays == {
        "big": ("buffers_int64", "int64", (1,)),
        "norm.running_mean": ("buffers", "float32", (16,)),
        "norm.running_var": ("buffers", "float32", (16,)),
        "norm.num_batches_tracked": ("buffers_int64", "int64", ()),
    }
    assert captured.complete


def test_kinds_of_other_modules():
    model = nn.ModuleDict(
        {
            "conv": nn.Conv2d(1, 2, 3),
            "up": nn.ConvTranspose1d(1, 2, 3),
            "layer": nn.LayerNorm(3),
            "group": nn.GroupNorm(1, 2),
            "attention": nn.MultiheadAttention(4, 2),
            "rnn": nn.GRU(2, 3),
            "bag": nn.EmbeddingBag(3, 2),
            "prelu": nn.PReLU(),
        }
    )
    kinds = {t.name: t.kind for t in capture(model).layout.tensors}
    assert kinds["conv.weight"] == kinds["up.weight"] == "conv"
    assert kinds["conv.bias"] == kinds["rnn.bias_ih_l0"] == "bias"
    assert kinds["layer.weight"] == kinds["layer.bias"] == kinds["group.weight"] == "norm"
    assert kinds["attention.in_proj_weight"] == kinds["rnn.weight_hh_l0"] == "linear"
    assert kinds["bag.weight"] == "embedding"
    assert kinds["prelu.weight"] == "other"


def kinds_of(model):
    return {t.name: t.kind for t in capture(model).layout.tensors}


class Conv1D(nn.Module):
    """As GPT-2 has it: a matrix (in, out), whatever its class is called."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))
        self.bias = nn.Parameter(torch.zeros(4))


class LlamaRMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))


def test_kinds_go_by_what_a_module_does():
    """Classes torch does not know are told apart by the shape and name of what they hold."""
    convolution = nn.Conv2d(1, 2, 3)
    patches = type("DeformConv2d", (nn.Module,), {})()
    patches.weight = nn.Parameter(convolution.weight.detach())
    model = nn.ModuleDict(
        {"gpt": Conv1D(), "rms": LlamaRMSNorm(), "deform": patches, "cell": nn.LSTMCell(2, 3)}
    )
    kinds = kinds_of(model)
    assert kinds["gpt.weight"] == kinds["cell.weight_hh"] == "linear"
    assert kinds["gpt.bias"] == "bias"
    assert kinds["rms.weight"] == "norm"
    assert kinds["deform.weight"] == "conv"


@pytest.mark.parametrize(
    ("reparametrize", "weight", "scale"),
    [
        (parametrizations.weight_norm, "parametrizations.weight.original1", "original0"),
        (parametrizations.spectral_norm, "parametrizations.weight.original", None),
        (parametrizations.orthogonal, "parametrizations.weight.original", None),
        (nn.utils.spectral_norm, "weight_orig", None),
        (partial(prune.l1_unstructured, name="weight", amount=0.5), "weight_orig", None),
    ],
)
@pytest.mark.parametrize(
    ("layer", "kind"), [(nn.Linear(3, 3), "linear"), (nn.Conv1d(2, 3, 2), "conv")]
)
def test_what_a_weight_is_computed_from_is_of_its_kind(reparametrize, weight, scale, layer, kind):
    model = nn.ModuleDict({"layer": copy.deepcopy(layer)})
    reparametrize(model["layer"])
    kinds = kinds_of(model)
    assert kinds[f"layer.{weight}"] == kind
    assert kinds["layer.bias"] == "bias"
    assert (scale is None) or kinds[f"layer.parametrizations.weight.{scale}"] == "other"


def test_a_lazy_layer_is_named_with_the_fix():
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(2), nn.LazyBatchNorm1d())
    with pytest.raises(ConfigError, match=r"'1\.weight' of LazyLinear '1'.*run one batch"):
        capture(model)
    model(torch.zeros(3, 4))
    assert len(capture(model).layout.tensors) == 4


def test_wrappers_within_a_model_leave_no_trace_in_names():
    """One compiled submodule, one in DataParallel, one under activation checkpointing, one tied."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    def build():
        torch.manual_seed(0)
        parts = [
            nn.Linear(2, 2),
            nn.BatchNorm1d(2),
            nn.Sequential(nn.Linear(2, 2)),
            nn.Linear(2, 2),
        ]
        parts[3].weight = parts[0].weight
        return parts

    plain = nn.Sequential(*build())
    a, b, c, d = build()
    wrapped = nn.Sequential(torch.compile(a), nn.DataParallel(b), checkpoint_wrapper(c), d)
    assert capture(wrapped).layout == capture(plain).layout
    captured = capture(wrapped)
    captured.require_unchanged()
    live = captured.live_buffers("buffers")
    assert live[0] is b.running_mean
    c[0] = nn.Linear(2, 2)
    with pytest.raises(RecordingError, match=r"'2\.0' was replaced"):
        captured.require_unchanged()


def test_wrappers_leave_no_trace_in_names():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    names = [t.name for t in capture(model).layout.tensors]
    compiled = torch.compile(model)
    for wrapped in (compiled, nn.DataParallel(model), nn.DataParallel(compiled)):
        assert unwrap(wrapped) is model
        assert [t.name for t in capture(wrapped).layout.tensors] == names


def test_include_and_exclude_are_patterns():
    model = Everything()

    def names(**options):
        captured = capture(model, **options)
        return [t.name for t in captured.layout.tensors], captured.complete

    assert names(include=["first.*"]) == (["first.weight", "first.bias"], False)
    kept, complete = names(exclude=["*.bias", "norm.*", "scale", "low.*", "frozen.*"])
    assert kept == ["embedding.weight", "first.weight"]
    assert not complete
    # What is not trained may be left out of a run that can be resumed.
    assert names(exclude=["frozen.*"])[1]
    captured = capture(model, include=["norm.*"])
    assert {b.name for b in captured.layout.buffers} == {
        f"norm.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")
    }
    with pytest.raises(ConfigError, match=r"no parameter of Everything.*include= and exclude="):
        capture(model, include=["nothing"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.int32])
def test_parameters_float32_cannot_hold_are_refused_by_name(dtype):
    model = nn.Module()
    model.odd = nn.Parameter(torch.zeros(3, dtype=dtype), requires_grad=False)
    model.fine = nn.Parameter(torch.zeros(3))
    with pytest.raises(UnsupportedTensorError, match=r"'odd' \(.*exclude=\['odd'\]"):
        capture(model)
    assert [t.name for t in capture(model, exclude=["odd"]).layout.tensors] == ["fine"]


def test_buffers_that_no_array_holds_are_refused_by_name():
    model = nn.Linear(1, 1)
    model.register_buffer("odd", torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(UnsupportedTensorError, match="buffer 'odd'"):
        capture(model)
    model = nn.Linear(1, 1)
    model.register_buffer("odd", torch.zeros(2, 2).to_sparse())
    with pytest.raises(UnsupportedTensorError, match="not dense"):
        capture(model)


def test_parameters_on_two_devices_are_refused():
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1, device="meta"))
    with pytest.raises(ConfigError, match=r"\(cpu, meta\)"):
        capture(model)
