import pytest
import torch

from ckptlab.train import choices, layout
from ckptlab.train.config import load_config
from ckptlab.train.sections import TrainConfig

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("device", "precision", "images", "weights"),
    [
        (CPU, "fp32", "channels_last", "contiguous"),
        (CPU, "bf16", "channels_last", "contiguous"),
        (GPU, "fp32", "contiguous", "contiguous"),
        (GPU, "tf32", "channels_last", "channels_last"),
        (GPU, "bf16", "channels_last", "channels_last"),
    ],
)
def test_a_layout_suits_device_and_precision(device, precision, images, weights):
    found = layout.resolve_layout(TrainConfig(precision=precision), device)
    assert (found.images, found.weights) == (images, weights)
    assert (
        layout.resolve_layout(TrainConfig(layout="contiguous"), device)[:2] == ("contiguous",) * 2
    )


def told(step, *overrides):
    config = load_config(overrides=["train.threads=1", *overrides])
    return {choice.what: choice for choice in choices.choices(config, step)}


def test_what_a_training_uses_is_told_with_its_reason(monkeypatch):
    monkeypatch.setattr(choices, "count_cores", lambda: 4)
    found = told(0.01, "train.device=cpu")
    assert found["device"].value == "cpu"
    assert found["precision"].value == "fp32"
    assert found["workers"].value == "4"
    assert all(choice.why for choice in found.values())


def test_on_a_gpu_a_quick_step_wants_two_processes(monkeypatch):
    monkeypatch.setattr(choices, "resolve_device", lambda train: GPU)
    monkeypatch.setattr(choices, "count_cores", lambda: 16)
    monkeypatch.setattr("ckptlab.record.pipeline.step_capture.count_cores", lambda: 16)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    for seconds, workers in ((0.2e-3, "2"), (0.5e-3, "1")):
        found = told(seconds, "train.precision=bf16")
        assert found["workers per GPU"].value == workers
        assert found["replicas per GPU"].value == "8"
        assert found["encoding"].value == "14 of 16 cores"
        assert found["layout"].value == "images channels_last, weights channels_last"
