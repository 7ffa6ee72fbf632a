import numpy as np
import pytest

from ckptlab.errors import CorruptError
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.checksum import checksummed
from ckptlab.store.read.commits import committed_keys, read_markers
from ckptlab.store.read.reader import read_root
from tests.store.samples import layout_of, trajectory, write_run


@pytest.fixture
def storage(tmp_path):
    write_run(tmp_path, trajectory(21, 11), layout_of(5, 6), evaluations=(3, 20))
    return open_storage(tmp_path)


def markers_with(storage, axis, change):
    values = np.frombuffer(storage.get(f"{axis}/c/0")[:-4], "<i8").copy()
    change(values)
    storage.put(f"{axis}/c/0", [checksummed(values.tobytes())])
    return read_markers(storage, read_root(storage)[1])


def test_markers_are_the_leading_entries(storage):
    markers = read_markers(storage, read_root(storage)[1])
    assert markers.steps == [10 * k for k in range(21)]
    assert markers.anchors == [70, 150, 200]
    assert markers.evaluations == [30, 200]
    assert markers.lengths() == {"step": 21, "anchor": 3, "eval_step": 2}


def test_what_follows_the_view_counts_up_to_the_first_gap(storage):
    def extend(values):
        values[21:23] = 210, 220
        values[24] = 240

    assert markers_with(storage, "step", extend).steps[-1] == 220


def test_anchors_and_evaluations_past_the_last_step_do_not_count(storage):
    assert markers_with(storage, "anchor", lambda v: v.__setitem__(3, 280)).anchors[-1] == 200
    assert (
        markers_with(storage, "eval_step", lambda v: v.__setitem__(2, 210)).evaluations[-1] == 200
    )


@pytest.mark.parametrize(
    ("axis", "position", "value", "problem"),
    [
        ("step", 5, -1, "has 5 entries where 21"),
        ("step", 5, 40, "does not increase"),
        ("anchor", 0, 75, "not recorded"),
        ("anchor", 1, 70, "does not increase"),
    ],
)
def test_contradictions_are_damage(storage, axis, position, value, problem):
    with pytest.raises(CorruptError, match=problem):
        markers_with(storage, axis, lambda v: v.__setitem__(position, value))


def test_a_missing_chunk_of_markers_is_damage(storage):
    storage.delete("step/c/0")
    with pytest.raises(CorruptError, match="step/c/0 is missing"):
        read_markers(storage, read_root(storage)[1])


def test_committed_files_are_those_on_disk(storage):
    _, metadata = read_root(storage)
    expected = {key for name, doc in metadata.items() for key in committed_keys(name, doc)}
    assert expected == {key for key in storage.list() if "/c/" in key}
