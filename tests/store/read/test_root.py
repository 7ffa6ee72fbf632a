"""The root metadata: what is not as format 1 says is refused, in one line that says what."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ckptlab.errors import CorruptError, FormatVersionError, StoreError
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.zarr_metadata import metadata_digest
from ckptlab.store.read.root import load_root, read_root
from tests.store.samples import layout_of, trajectory, write_run

LAYOUT = layout_of(5, 6)


@pytest.fixture
def storage(tmp_path):
    write_run(tmp_path / "run", trajectory(21, 11), LAYOUT, evaluations=(3, 20))
    return open_storage(tmp_path / "run")


def change(storage: Any, how: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    """Change attributes and arrays, and make the digest right again."""
    root = json.loads(storage.get("zarr.json"))
    attributes, metadata = root["attributes"], root["consolidated_metadata"]["metadata"]
    how(attributes, metadata)
    attributes["metadata_digest"] = metadata_digest(attributes, metadata)
    storage.put("zarr.json", [json.dumps(root).encode()])


def test_arrays_are_as_long_as_what_is_committed(storage):
    attributes, metadata = read_root(storage)
    assert attributes["state"] in ("complete", "interrupted", "recording")
    assert metadata["weights"]["shape"] == [LAYOUT.parameters, 21]
    assert metadata["step"]["shape"] == [21]
    assert metadata["eval_step"]["shape"] == [2]


def test_what_was_not_synced_does_not_count_after_another_boot(storage):
    def power_loss(attributes, _):
        attributes["synced"] = {"step": 8, "anchor": 1, "eval_step": 1, "boot": "another"}

    change(storage, power_loss)
    assert read_root(storage)[1]["weights"]["shape"] == [LAYOUT.parameters, 8]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda a, _: a.update(block=33), "block 33 is not a power of two"),
        (lambda a, _: a.update(block=True), "block True is not"),
        (lambda a, _: a.update(state="done"), "state 'done' is none of"),
        (lambda a, _: a.update(coordinates="step"), "is not tensor_index"),
        (lambda a, _: a.pop("codec"), "codec"),
        (lambda a, _: a.update(tensors=[]), "holds no parameter"),
        (lambda _, m: m.pop("digest"), "digest"),
        (lambda _, m: m.update(extra=m["loss"]), "array 'extra' is not stored as format 1 says"),
        (lambda _, m: m["loss"].update(shape=[20]), "'loss' is not as long as its axis step"),
        (lambda _, m: m["step"].update(shape=[2**50]), "not as long as its axis|absurd"),
        (lambda _, m: m["weights"].update(shape=[12, 21]), "'weights' has another shape"),
        (lambda _, m: m["weights"].update(shape=[11.0, 21]), "'weights' has another shape"),
        (lambda _, m: m["weights"].update(data_type="float64"), "'weights' is not stored as"),
        (lambda _, m: m["loss"].update(attributes={"scale_factor": 2}), "other attributes"),
        (
            lambda a, _: a.update(synced={"step": 99, "anchor": 0, "eval_step": 0, "boot": "x"}),
            "more is said to be synced",
        ),
    ],
)
def test_what_is_not_as_the_format_says_is_refused(storage, how, said):
    change(storage, how)
    with pytest.raises(CorruptError, match=said) as caught:
        read_root(storage)
    assert "\n" not in str(caught.value)
    assert str(storage.path) in str(caught.value)


def test_a_digest_that_is_wrong(storage):
    text = storage.get("zarr.json").decode()
    storage.put("zarr.json", [text.replace('"block": 8', '"block": 4').encode()])
    with pytest.raises(CorruptError, match="its digest is wrong"):
        read_root(storage)


@pytest.mark.parametrize(("version", "shown"), [(2, "2"), ("1", "'1'"), (0, "0"), (None, "None")])
def test_other_formats_are_named(storage, version, shown):
    change(storage, lambda attributes, _: attributes.update(format=version))
    with pytest.raises(FormatVersionError, match=f"is of format {shown}; .*Update ckptlab"):
        read_root(storage)


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (None, StoreError, "is no ckptlab run"),
        (b"{", CorruptError, "is damaged"),
        (b"[" * 100_000, CorruptError, "is damaged"),
        (b"[]", StoreError, "is no Zarr group"),
        (b'{"node_type": "array"}', StoreError, "is no Zarr group"),
        (b'{"node_type": "group"}', StoreError, "is a Zarr group, but no ckptlab run"),
    ],
)
def test_no_run(storage, content, kind, said):
    if content is None:
        storage.delete("zarr.json")
    else:
        storage.put("zarr.json", [content])
    with pytest.raises(kind, match=said):
        read_root(storage)


def test_nothing_is_there(tmp_path):
    with pytest.raises(StoreError, match="does not exist; record one with: ckptlab record"):
        load_root(open_storage(tmp_path / "none"))
