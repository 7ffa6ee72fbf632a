import numpy as np
import pytest

from ckptlab.errors import UnknownNameError
from ckptlab.store.format import schema
from tests.store.samples import layout_of


def test_a_run_has_the_documented_arrays():
    documents = schema.array_metadata(
        layout_of(5, 6), block=8, codec="fast", optional=["gradients"]
    )
    assert set(documents) == {
        *("weights", "gradients", "buffers", "buffers_int64"),
        *("step", "loss", "batch_accuracy", "lr", "wall_time", "stall_time", "skipped", "digest"),
        *("gradient_norm", "gradient_mean_abs"),
        *("anchor", "eval_step", "eval_loss", "eval_accuracy", "tensor", "tensor_index"),
    }
    assert documents["buffers_int64"]["dimension_names"] == ["buffer_int64", "step"]
    assert documents["gradient_norm"]["shape"] == [2, 0]
    assert "gradients" not in schema.array_metadata(layout_of(5), block=8, codec="fast")


def test_a_dimension_has_one_length_wherever_it_occurs():
    documents = schema.array_metadata(layout_of(5, 6), block=8, codec="dense")
    lengths: dict[str, int] = {}
    for document in documents.values():
        for name, length in zip(document["dimension_names"], document["shape"], strict=True):
            assert lengths.setdefault(name, length) == length


@pytest.mark.parametrize("tensors", [1, 65, 1000, 20_000])
def test_chunks_over_tensors_stay_small_and_are_whole_blocks(tensors):
    layout = layout_of(*[1] * tensors)
    document = schema.series_metadata(schema.SERIES["gradient_norm"], layout)
    rows, steps = document["chunk_grid"]["configuration"]["chunk_shape"]
    assert rows == tensors
    assert steps % 32 == 0
    assert rows * steps <= 2**18 or steps == 32


def test_byte_rows_are_as_wide_as_needed():
    for width, expected in ((0, 65536), (65536, 65536), (65537, 131072)):
        assert schema.optimizer_row_metadata(width)["shape"] == [expected, 0]


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("optimizer_momentum_buffer", True),
        ("optimizer_exp-avg2", True),
        ("optimizer_state", False),
        ("optimizer_", False),
        ("optimizer_../x", False),
        ("optimizer_a/b", False),
        ("optimizer_a.b", False),
        ("optimizer_a\0", False),
        ("optimizer_a\n", False),
        ("optimizer_" + "a" * 101, False),
        ("momentum", False),
    ],
)
def test_names_of_states_are_names_of_folders(name, fits):
    assert schema.is_optimizer_name(name) is fits


def test_an_unknown_codec_names_those_there_are():
    with pytest.raises(UnknownNameError, match="dense, fast"):
        schema.array_metadata(layout_of(5), block=8, codec="zip")


def test_chunks_over_steps_hold_whole_blocks():
    for series in schema.SERIES.values():
        document = schema.series_metadata(series, layout_of(5))
        assert document["chunk_grid"]["configuration"]["chunk_shape"][-1] % 32 == 0
        assert np.dtype(document["data_type"]).kind in "fiub"
