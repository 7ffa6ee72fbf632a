import pytest

from ckptlab.errors import ConfigError
from ckptlab.store.write.metadata import as_json, new_attributes
from tests.store.samples import layout_of


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x", object(), [{"a": 1j}]])
def test_what_is_no_json_is_named(value):
    with pytest.raises(ConfigError, match=r"config cannot be stored: .*accepted: text, numbers"):
        as_json({"fine": 1, "config": value})


def test_json_is_copied():
    inner = {"a": [1, 2.5, "µ", None, True], "n": {}}
    copy = as_json({"config": inner})
    inner["a"].append("later")
    assert copy == {"config": {"a": [1, 2.5, "µ", None, True], "n": {}}}


def test_more_than_a_reader_accepts_is_not_written():
    with pytest.raises(ConfigError, match=r"take 40,000,002 bytes.*accepted: up to 33,554,432"):
        as_json({"config": "x" * 40_000_000})


@pytest.mark.parametrize("name", ["format", "state", "synced", "metadata_digest", "end"])
def test_names_of_the_store_are_taken(name):
    with pytest.raises(ConfigError, match=f"{name} are the store's own"):
        new_attributes({name: 1}, layout_of(3), block=4, codec="dense")
