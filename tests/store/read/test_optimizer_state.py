import json

import pytest
import torch
from safetensors.torch import save

from ckptlab.errors import CorruptError
from ckptlab.store.backends.open import open_storage
from ckptlab.store.read.optimizer_state import present_states, read_anchor
from ckptlab.store.read.reader import read_root
from tests.store.samples import anchor_of, layout_of, same_bits, trajectory, write_run


def test_the_header_that_safetensors_writes_is_read_by_hand():
    description = json.dumps({"present": {"exp_avg": ["a"], "exp_avg_sq": ["a", "b"]}})
    row = save({"state/a/step": torch.ones(3)}, {"ckptlab": description})
    assert present_states(row) == ("exp_avg", "exp_avg_sq")
    assert present_states(save({"empty": torch.zeros(0)}, {"ckptlab": "{}"})) == ()


@pytest.mark.parametrize(
    "row",
    [
        b"",
        b"xyz",
        b"\xff" * 8,
        b"\xff" * 100,
        (2).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (19).to_bytes(8, "little") + b'{"__metadata__": 3}',
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
    ],
)
def test_any_other_row_is_none(row):
    assert present_states(row) is None


def test_an_anchor_is_what_was_written(tmp_path):
    weights = trajectory(16, 11)
    write_run(tmp_path, weights, layout_of(5, 6))
    storage = open_storage(tmp_path)
    _, metadata = read_root(storage)
    anchor = read_anchor(storage, metadata, [70, 150], 150)
    assert anchor.row == anchor_of(weights, 15).row
    assert same_bits(anchor.states["momentum"], -weights[15])
    assert read_anchor(storage, metadata, [70, 150], 80) is None
    del metadata["optimizer_momentum"]
    with pytest.raises(CorruptError, match="optimizer_momentum"):
        read_anchor(storage, metadata, [70, 150], 150)
    del metadata["optimizer_state"]
    assert read_anchor(storage, metadata, [70, 150], 150) is None
