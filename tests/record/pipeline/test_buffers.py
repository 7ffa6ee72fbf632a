import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckptlab.errors import ConfigError
from ckptlab.record.memory import parse_memory
from ckptlab.record.pipeline.buffers import (
    BlockBuffer,
    block_size,
    bytes_per_step,
)
from ckptlab.record.state.model_tensors import capture
from tests.record.loops import Everything


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (12345, 12345),
        ("12345", 12345),
        ("1GiB", 2**30),
        ("1 gb", 2**30),
        ("512MiB", 2**29),
        ("1.5 k", 1536),
        ("2T", 2**41),
        ("100 B", 100),
    ],
)
def test_amounts_of_memory(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1", "1 PB", "1GiBB", True, "1e9"])
def test_what_is_no_amount_is_told(text):
    with pytest.raises(ConfigError, match="accepted: 1GiB, 512MiB, or bytes"):
        parse_memory(text)


@given(st.integers(1, 10**9), st.integers(3, 10**12))
def test_a_block_is_a_power_of_two_that_fits(step_bytes, memory):
    if memory < 3 * step_bytes:
        with pytest.raises(ConfigError, match=f"{3 * step_bytes:,}"):
            block_size(step_bytes, memory)
        return
    block = block_size(step_bytes, memory)
    assert block & (block - 1) == 0
    assert 3 * block * step_bytes <= memory
    if 3 * 2 * block * step_bytes <= memory:  # not memory, but access to one snapshot decides
        assert block >= 32 or (block >= 4 and 2 * block * step_bytes > 2**32)


@pytest.mark.parametrize(
    ("parameters", "steps", "block"),
    [
        (500, 500, 32),
        (500, 100_000, 512),
        (500, None, 256),
        (500, 10**7, 1024),
        (60_000, 100_000, 64),
        (272_474, 100_000, 32),
        (11_000_000, 100_000, 32),
        (126_000_000, 65, 8),
        (1_000_000_000, 65, 4),
    ],
)
def test_a_block_suits_the_model_and_the_length(parameters, steps, block):
    assert block_size(4 * parameters, 2**40, steps) == block


def test_bytes_of_a_step_are_those_of_its_rows():
    captured = capture(Everything())
    for gradients in (False, True):
        buffer = BlockBuffer(captured, 4, gradients=gradients)
        rows = [buffer.device_rows[name] for name in buffer.views]
        expected = sum(r[0].numel() * r.element_size() for r in rows)
        assert bytes_per_step(captured.layout, gradients=gradients) == expected


def test_views_of_a_row_are_the_tensors_one_after_the_other():
    model = Everything()
    captured = capture(model)
    buffer = BlockBuffer(captured, 2, gradients=False)
    with torch.no_grad():
        torch._foreach_copy_(buffer.views["weights"][1], list(captured.parameters))
    flat = torch.cat([p.detach().float().reshape(-1) for p in captured.parameters])
    assert torch.equal(buffer.device_rows["weights"][1], flat)
    assert not buffer.device_rows["weights"][0].any()
    assert buffer.host("weights", 1).shape == (1, captured.layout.parameters)
