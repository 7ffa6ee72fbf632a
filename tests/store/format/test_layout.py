import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckptlab.errors import LayoutError, StoreError, UnknownNameError
from ckptlab.store.format.layout import KINDS, Buffer, Layout, Tensor

shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)


names = st.text(max_size=4).filter(str.isprintable)


@st.composite
def layouts(draw):
    tensors, offset = [], 0
    for index, shape in enumerate(draw(st.lists(shapes, min_size=1, max_size=6))):
        tensors.append(
            Tensor(
                name=f"t{index}.weight",
                shape=shape,
                offset=offset,
                dtype=draw(st.sampled_from(["float32", "bfloat16"])),
                kind=draw(st.sampled_from(KINDS)),
                trainable=draw(st.booleans()),
                aliases=tuple(draw(st.lists(names, max_size=2))),
            )
        )
        offset += int(np.prod(shape))
    return Layout(tuple(tensors))


@given(layouts())
def test_survives_json(layout):
    assert Layout.from_attributes(json.loads(json.dumps(layout.to_attributes()))) == layout


@given(layouts())
def test_index_and_offsets_describe_the_same_stretches(layout):
    index = layout.tensor_index()
    assert len(index) == layout.parameters == layout.offsets[-1]
    for number, tensor in enumerate(layout.tensors):
        assert np.count_nonzero(index == number) == tensor.size
        assert (index[tensor.offset : tensor.offset + tensor.size] == number).all()


def test_a_gap_an_overlap_and_a_name_that_comes_twice_are_refused():
    first = Tensor(name="a", shape=(4,), offset=0)
    for offset, name in ((5, "b"), (3, "b"), (4, "a")):
        with pytest.raises(LayoutError, match=name):
            Layout((first, Tensor(name=name, shape=(2,), offset=offset)))


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\nb", "a\0", "\u202ea"])
def test_names_that_a_terminal_would_obey_are_refused(name):
    for rows in ({"name": name}, {"name": "a", "aliases": (name,)}):
        with pytest.raises(LayoutError, match="unprintable"):
            Layout((Tensor(shape=(2,), offset=0, **rows),))
    attributes = Layout((Tensor(name="a", shape=(2,), offset=0),)).to_attributes()
    attributes["tensors"][0]["name"] = name
    with pytest.raises(StoreError, match="unprintable"):
        Layout.from_attributes(attributes)


def test_selection_by_kind():
    layout = Layout(
        (
            Tensor(name="a", shape=(2,), offset=0, kind="conv"),
            Tensor(name="b", shape=(2,), offset=2, kind="bias"),
        )
    )
    assert layout.select().tolist() == [True, False]
    assert layout.select(["all"]).tolist() == [True, True]
    with pytest.raises(LayoutError, match="present: bias, conv"):
        layout.select(["norm"])
    with pytest.raises(UnknownNameError, match="Did you mean 'linear'"):
        layout.select(["linear_"])


def test_a_tensor_is_found_by_name_and_alias():
    tied = Tensor(name="head.weight", shape=(2,), offset=0, aliases=("embedding.weight",))
    layout = Layout((tied,))
    assert layout["embedding.weight"] is tied
    assert tied.layer == "head"
    with pytest.raises(UnknownNameError, match=r"head\.weight"):
        layout["heads.weight"]


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [-1]},
        {"shape": "4"},
        {"shape": [True]},
        {"shape": [2.0, 2]},
        {"shape": [2**62]},
        {"offset": 1},
        {"offset": None},
        {"name": 3},
        {"name": None},
        {"kind": "convolution"},
        {"dtype": "load"},
        {"dtype": ["float32"]},
        {"aliases": [1]},
        {"aliases": None},
    ],
)
def test_a_malformed_row_is_a_store_error(change):
    layout = Layout((Tensor(name="a", shape=(4,), offset=0),))
    attributes = layout.to_attributes()
    attributes["tensors"][0] |= change
    with pytest.raises(StoreError, match="tensor table"):
        Layout.from_attributes(attributes)


@pytest.mark.parametrize("array", ["weights", "../buffers", "buffers_object", "buffers_int64"])
def test_a_buffer_lies_in_the_array_of_its_type_and_nowhere_else(array):
    layout = Layout((), (Buffer(name="b", shape=(4,), offset=0),))
    attributes = layout.to_attributes()
    attributes["buffers"][0]["array"] = array
    with pytest.raises(StoreError):
        Layout.from_attributes(attributes)


def test_splits_numpy_and_torch_vectors_alike():
    layout = Layout(
        (Tensor(name="a", shape=(2, 3), offset=0), Tensor(name="b", shape=(), offset=6)),
        (Buffer(name="n", shape=(1,), offset=0, dtype="int64", array="buffers_int64"),),
    )
    vectors = {"weights": np.arange(7.0), "buffers_int64": np.array([5])}

    parts = layout.split(vectors)
    same = layout.split({"weights": torch.arange(7.0)})

    assert {name: part.tolist() for name, part in parts.items()} == {
        "a": [[0, 1, 2], [3, 4, 5]],
        "b": 6,
        "n": [5],
    }
    assert list(same) == ["a", "b"]
    assert same["a"].tolist() == parts["a"].tolist()
    assert np.shares_memory(parts["a"], vectors["weights"])


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ([("a", (2,)), ("b", (3,))], None),
        ([("a", (2,)), ("b", (4,))], ("b", "(3,) float32", "(4,) float32")),
        ([("a", (2,))], ("b", "(3,) float32", "missing")),
        ([("b", (3,)), ("a", (2,))], ("a", "(2,) float32 at 0", "(2,) float32 at 3")),
    ],
)
def test_names_the_first_difference(other, found):
    one = _laid_out([("a", (2,)), ("b", (3,))])

    assert one.difference(_laid_out(other)) == found


def test_types_are_compared_unless_told_otherwise():
    one = Layout((Tensor(name="a", shape=(2,), offset=0),))
    other = Layout((Tensor(name="a", shape=(2,), offset=0, dtype="bfloat16"),))

    assert one.difference(other) == ("a", "(2,) float32", "(2,) bfloat16")
    assert one.difference(other, dtypes=False) is None


def _laid_out(rows):
    offsets = np.cumsum([0, *(np.prod(shape, dtype=int) for _, shape in rows)]).tolist()
    return Layout(
        tuple(
            Tensor(name=name, shape=shape, offset=offset)
            for (name, shape), offset in zip(rows, offsets, strict=False)
        )
    )
