import json
import shutil
import threading

import numpy as np
import pytest
import xxhash

from ckptlab.errors import CorruptError, FormatVersionError, StoreError
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.checksum import checksummed
from ckptlab.store.format.shards import encode_shard
from ckptlab.store.format.zarr_metadata import metadata_digest
from ckptlab.store.maintain.repack import repack
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from ckptlab.store.write.writer import StoreWriter
from tests.store.samples import block_of, layout_of, same_bits, trajectory, write_run

LAYOUT = layout_of(30, 12)
WEIGHTS = trajectory(21, LAYOUT.parameters)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("verify") / "run.zarr"
    write_run(path, WEIGHTS, LAYOUT, evaluations=(3, 9))
    return path


@pytest.fixture
def run(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run.zarr")


def files_of(path):
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())


def test_a_whole_run_is_ok_and_every_file_of_it_was_checked(original):
    for deep in (False, True):
        report = verify(original, deep=deep)
        assert report.ok, str(report)
        assert report.notes == ()
        assert (report.steps, report.first_step, report.last_step) == (21, 0, 200)
        assert report.files == len(files_of(original)) - 1  # but the lock
        assert report.shards == len([f for f in files_of(original) if _is_shard(original, f)])
        sizes = [(original / f).stat().st_size for f in files_of(original)]
        assert report.bytes == sum(sizes)
        assert report.deep is deep


def _is_shard(path, file):
    name, _, rest = file.partition("/")
    if not rest.startswith("c/"):
        return False
    return "sharding_indexed" in (path / name / "zarr.json").read_text()


def test_the_report_is_json(run):
    (run / "weights/c/0/1").write_bytes(b"x")
    report = verify(run)
    found = json.loads(json.dumps(report.to_dict()))
    assert found["ok"] is False
    assert found["findings"] == [
        {
            "array": "weights",
            "file": "weights/c/0/1",
            "problem": "is damaged (1 bytes are too few for a shard)",
            "first_step": 80,
            "last_step": 150,
            "rebuildable": False,
            "observation": False,
        }
    ]
    assert "weights, steps 80..150: weights/c/0/1 is damaged" in str(report)


def test_every_file_that_is_missing_empty_torn_or_flipped_is_named(original, run):
    rng = np.random.default_rng(0)
    for file in files_of(original):
        if file == "writer.lock":
            continue
        data = (original / file).read_bytes()
        flipped = bytearray(data)
        # In metadata a byte that is no white space between tokens.
        flipped[int(rng.integers(len(data)))] ^= 4
        for damage in (None, data[: len(data) // 2], data + b"\0", bytes(flipped)):
            if damage is None:
                (run / file).unlink()
            else:
                (run / file).write_bytes(damage)
            try:
                report = verify(run)
            except StoreError:
                assert file == "zarr.json"
            else:
                assert not report.ok, (file, damage)
                assert file in {f.file for f in report.findings}
                name = file.partition("/")[0]
                assert {f.array for f in report.findings} <= {name, "", "step"}
            (run / file).write_bytes(data)
    assert verify(run, deep=True).ok


def test_steps_of_what_is_wrong_are_named(run):
    for file in ("gradient_norm/c/0/0", "optimizer_momentum/c/0/1", "buffers/c/0/2"):
        (run / file).unlink()
    found = {f.array: (f.first_step, f.last_step) for f in verify(run).findings}
    assert found == {
        "gradient_norm": (0, 200),
        "optimizer_momentum": (150, 150),
        "buffers": (160, 200),
    }


def test_a_state_that_an_anchor_names_must_be_there(run):
    shutil.rmtree(run / "optimizer_momentum/c")
    report = verify(run)
    assert [f.file for f in report.findings] == [f"optimizer_momentum/c/0/{j}" for j in range(3)]


def test_a_wrong_value_with_right_checksums_is_found_by_digest_alone(run):
    """As a writer with a fault in memory would leave it."""
    changed = WEIGHTS[8:16].copy()
    changed[2, 5] = 17.0
    grid = open_store(run).weights.grid
    (run / "weights/c/0/1").write_bytes(bytes(encode_shard(changed, grid, 0)))
    assert verify(run).ok
    (finding,) = verify(run, deep=True).findings
    assert (finding.array, finding.first_step, finding.last_step) == ("weights", 100, 100)
    assert "digest" in finding.problem


def test_each_shard_has_digests_of_its_own_and_a_damaged_one_is_named(tmp_path):
    layout = layout_of(2**21 + 40_000, buffers=False)
    weights = trajectory(2, layout.parameters)
    write_run(tmp_path, weights, layout, block=2, codec="fast")
    assert verify(tmp_path, deep=True).ok
    stored = open_store(tmp_path)
    expected = [
        [xxhash.xxh3_64_intdigest(row[part].tobytes()) for row in weights]
        for part in (slice(2**21), slice(2**21, None))
    ]
    assert stored.small("digest").tolist() == expected
    changed = weights.copy()
    changed[1, 2**21 + 5] = 17.0
    (tmp_path / "weights/c/1/0").write_bytes(bytes(encode_shard(changed, stored.weights.grid, 1)))
    (finding,) = verify(tmp_path, deep=True).findings
    assert (finding.file, finding.first_step) == ("weights/c/1/0", 10)
    assert same_bits(stored.snapshot(0), weights[0])
    with pytest.raises(CorruptError, match="weights/c/1/0: the weights of step 10 have another"):
        stored.snapshot(10)
    with pytest.raises(CorruptError, match="weights of step 10 have another digest"):
        repack(tmp_path, tmp_path.with_name("other.zarr"), codec="raw")


def test_markers_are_compared_with_the_view_and_with_each_other(run):
    def rewrite(axis, change):
        file = run / axis / "c/0"
        values = np.frombuffer(file.read_bytes()[:-4], "<i8").copy()
        change(values)
        file.write_bytes(checksummed(values.tobytes()))

    original = {axis: (run / axis / "c/0").read_bytes() for axis in ("step", "anchor", "eval_step")}

    def problems(axis, change):
        rewrite(axis, change)
        text = str(verify(run))
        (run / axis / "c/0").write_bytes(original[axis])
        return text

    assert "lacks markers" in problems("step", lambda v: v.__setitem__(20, -1))
    assert "does not increase" in problems("step", lambda v: v.__setitem__(20, 190))
    assert "root metadata: zarr.json says steps" in problems(
        "step", lambda v: v.__setitem__(20, 201)
    )
    assert "not recorded" in problems("anchor", lambda v: v.__setitem__(0, 71))
    assert "lacks markers" in problems("anchor", lambda v: v.__setitem__(0, -1))
    assert "past the last" in problems("eval_step", lambda v: v.__setitem__(1, 201))
    assert verify(run).ok


def test_the_arrays_own_metadata_may_be_longer_and_nothing_else(run):
    file = run / "loss/zarr.json"
    own = json.loads(file.read_text())
    for shape, fits in (([21], True), ([5000], True), ([20], False), ([21.0], False), ([], False)):
        file.write_text(json.dumps({**own, "shape": shape}))
        assert verify(run).ok is fits, shape
    for change in (
        {"fill_value": 0.0},
        {"data_type": "float64"},
        {"attributes": {}},
        {"codecs": []},
    ):
        file.write_text(json.dumps({**own, **change}))
        (finding,) = verify(run).findings
        assert finding.file == "loss/zarr.json"
        assert finding.rebuildable


def test_what_surrounds_the_root_metadata_is_checked_too(run):
    root = json.loads((run / "zarr.json").read_text())
    for change in (
        {"zarr_format": 2},
        {"more": 1},
        {"consolidated_metadata": {**root["consolidated_metadata"], "kind": "outline"}},
        {"consolidated_metadata": {**root["consolidated_metadata"], "must_understand": True}},
    ):
        (run / "zarr.json").write_text(json.dumps({**root, **change}))
        assert not verify(run).ok


def test_constants_must_be_those_of_the_tensor_table(run):
    from ckptlab.store.format.codecs import CODECS

    index = np.zeros(42, "<i4")
    (run / "tensor_index/c/0").write_bytes(CODECS["zstd"].encode(index))
    (finding,) = verify(run).findings
    assert (finding.array, finding.rebuildable) == ("tensor_index", True)


def test_unexpected_files_are_notes(run):
    (run / "weights/c/0/3").write_bytes(b"an orphan")
    (run / "weights/c/0/0.aa.partial").write_bytes(b"unfinished")
    (run / "notes.txt").write_text("mine")
    (run / "writer.lock").write_text("{}")
    report = verify(run, deep=True)
    assert report.ok
    assert len(report.notes) == 4
    for part in ("weights/c/0/3: not committed", "not completed", "notes.txt", "was killed"):
        assert any(part in note for note in report.notes), part


def test_no_run_and_a_newer_format_are_errors_not_findings(run, tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        verify(tmp_path / "none")
    root = json.loads((run / "zarr.json").read_text())
    root["attributes"]["format"] = 2
    root["attributes"]["metadata_digest"] = metadata_digest(
        root["attributes"], root["consolidated_metadata"]["metadata"]
    )
    (run / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(FormatVersionError):
        verify(run)


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_a_run_that_is_being_written_verifies_all_the_time(tmp_path, kind):
    """Full and partly filled blocks, growth, evaluations and cuts, while verify goes over it."""
    path = tmp_path / "run.zarr" if kind == "local" else f"memory://{tmp_path}"
    layout, weights = layout_of(30, 12), trajectory(64, 42)
    storage = open_storage(path, fsync=False)
    writer = StoreWriter.create(storage, layout, block=4, codec="fast", attributes={})
    done = threading.Event()

    def write():
        for stop in range(1, 65):
            writer.write_block(block_of(weights, (stop - 1) // 4 * 4, stop, layout=layout))
            if stop % 20 == 0:
                writer.cut(stop - 3)
                for again in range(stop - 2, stop + 1):
                    start = (again - 1) // 4 * 4
                    writer.write_block(block_of(weights, start, again, layout=layout))
        writer.finish("complete")
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    counts = []
    while not done.is_set() or len(counts) < 3:
        report = verify(path, deep=True)
        assert report.ok, str(report)
        counts.append(report.steps)
    thread.join()
    assert verify(path, deep=True).steps == 64
    assert len(set(counts)) > 2


def test_memory_is_bounded_by_a_shard(tmp_path):
    """A run of many blocks is checked with no more memory than one of few."""
    import tracemalloc

    peaks = []
    for steps in (8, 64):
        layout = layout_of(40_000, buffers=False)
        path = tmp_path / str(steps)
        write_run(path, trajectory(steps, 40_000), layout, codec="fast")
        verify(path, deep=True)
        tracemalloc.start()
        assert verify(path, deep=True).ok
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
