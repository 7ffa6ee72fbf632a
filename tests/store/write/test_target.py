import pytest

from ckptlab.errors import RunExistsError
from ckptlab.store.backends.open import open_storage
from ckptlab.store.write.target import is_free, require_free
from tests.store.samples import layout_of, trajectory, write_run


def test_nothing_an_empty_folder_and_a_lock_alone_are_free(tmp_path):
    assert is_free(open_storage(tmp_path / "none"))
    assert is_free(open_storage(tmp_path))
    open_storage(tmp_path).lock().release()
    assert is_free(open_storage(tmp_path))


def test_what_a_killed_creation_left_is_free(tmp_path):
    storage = open_storage(tmp_path)
    lock = storage.lock()
    storage.put("weights/zarr.json", [b"{}"])
    storage.put("buffers_int64/zarr.json", [b"{}"])
    (tmp_path / "zarr.json.0011.partial").write_bytes(b"{")
    assert is_free(storage)
    require_free(storage, overwrite=False)
    lock.release()


def test_recorded_data_without_their_root_are_not_taken_for_nothing(tmp_path):
    """Such as a copy that has not come to `zarr.json` yet, or a run that was damaged."""
    write_run(tmp_path, trajectory(4, 5), layout_of(5))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    del before[tmp_path / "zarr.json"]
    (tmp_path / "zarr.json").unlink()
    storage = open_storage(tmp_path)
    assert not is_free(storage)
    with pytest.raises(RunExistsError, match=r"data of a run whose zarr\.json is missing"):
        require_free(storage, overwrite=False)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    require_free(storage, overwrite=True)  # what a kill leaves of an overwriting


@pytest.mark.parametrize("name", ["thesis.tex", "data/zarr.json", "zarr.json", ".git/config"])
def test_anything_of_someone_else_is_not(tmp_path, name):
    storage = open_storage(tmp_path)
    storage.lock().release()
    storage.put("weights/zarr.json", [b"{}"])
    storage.put(name, [b"mine"])
    assert not is_free(storage)
    for overwrite in (False, True):
        with pytest.raises(RunExistsError, match="no run"):
            require_free(storage, overwrite=overwrite)


def test_metadata_of_an_absurd_size_are_not_read_to_tell_whose_they_are(tmp_path):
    write_run(tmp_path, trajectory(4, 5), layout_of(5))
    with (tmp_path / "zarr.json").open("r+b") as file:
        file.truncate(10 * 2**30)  # a sparse file
    for overwrite in (False, True):
        with pytest.raises(RunExistsError):
            require_free(open_storage(tmp_path), overwrite=overwrite)


def test_a_folder_without_our_lock_is_not(tmp_path):
    storage = open_storage(tmp_path)
    storage.put("weights/zarr.json", [b"{}"])
    assert not is_free(storage)


def test_a_complete_run_is_not_told_to_be_resumed(tmp_path):
    write_run(tmp_path, trajectory(4, 5), layout_of(5))
    with pytest.raises(RunExistsError, match=r"\(complete\); use another path"):
        require_free(open_storage(tmp_path), overwrite=False)
    require_free(open_storage(tmp_path), overwrite=True)
