from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from ckptlab.errors import ConfigError, DataError, NoSpaceError, RunExistsError
from ckptlab.record.convert.write_checkpoints import write_folder
from ckptlab.record.hub import client
from ckptlab.record.hub.estimate_revisions import estimate_revisions
from ckptlab.record.hub.import_revisions import import_revisions
from ckptlab.run import open_run
from ckptlab.store.maintain.verify import verify
from tests.record.hub.server import serving

REPOSITORY = ("models", "lab/series")
URL = "hf://lab/series"
STEPS = (0, 1, 512, 1000)


def state(step):
    draw = torch.Generator().manual_seed(step)
    shapes = {"embed_in.weight": (11, 4), "layers.0.dense.weight": (4, 4), "norm.weight": (4,)}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def files_of(folder, step, shard_bytes=100):
    """The files of a revision, in shards with an index."""
    write_folder(state(step), folder / f"made{step}", shard_bytes=shard_bytes)
    files = {file.name: file.read_bytes() for file in (folder / f"made{step}").iterdir()}
    return {**files, "config.json": b"{}", "pytorch_model.bin": b"not taken", "README.md": b"x"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serving() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        revisions = {f"step{step}": files_of(tmp_path, step) for step in STEPS}
        served.repositories[REPOSITORY] = {"main": revisions["step1000"], **revisions}
        yield served


def require_all(path, steps=STEPS):
    run = open_run(path)
    assert run.steps.tolist() == list(steps)
    for step in steps:
        found = run.state_dict(step)
        assert all(torch.equal(found[name], value) for name, value in state(step).items())
    assert verify(path, deep=True).ok


def downloads(folder):
    return [p for p in (folder / "home" / "ckptlab").rglob("*") if p.is_file()]


def test_revisions_become_steps_and_leave_nothing_in_the_cache(hub, tmp_path):
    seen = []
    done = import_revisions(
        URL, tmp_path / "run.zarr", revisions="step*", progress=lambda *at: seen.append(at)
    )
    require_all(tmp_path / "run.zarr")
    assert (done.steps, done.new, done.first, done.last) == (4, 4, 0, 1000)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert not downloads(tmp_path)
    assert all(file != "pytorch_model.bin" for _, file in hub.sent)
    run = open_run(tmp_path / "run.zarr")
    assert run.attributes["imported"]["folder"] == URL
    hub.sent.clear()
    again = import_revisions(URL, tmp_path / "run.zarr", revisions="step*")
    assert (again.new, again.steps, hub.sent) == (0, 4, {})
    hub.repositories[REPOSITORY]["step2000"] = files_of(tmp_path, 2000)
    assert import_revisions(URL, tmp_path / "run.zarr", revisions="step*").new == 1
    require_all(tmp_path / "run.zarr", (*STEPS, 2000))


def test_one_revision(hub, tmp_path):
    import_revisions(f"{URL}@step512", tmp_path / "run.zarr")
    require_all(tmp_path / "run.zarr", (512,))


def test_a_folder_has_the_step_of_its_revision_and_every_note_is_told(hub, tmp_path):
    held = hub.repositories[REPOSITORY]
    for revision, files in held.items():
        held[revision] = {f"base/{name}": content for name, content in files.items()}
        held[revision]["base/trainer_state.json"] = b'{"global_step": 512}'
    held["stepless"] = held["step0"]
    done = import_revisions(f"{URL}/base", tmp_path / "run.zarr", revisions="step*")
    require_all(tmp_path / "run.zarr")
    assert done.notes == [
        "left out revision stepless: it names no step",
        *(f"took step {step}, which says step 512 inside" for step in (0, 1, 1000)),
    ]
    assert open_run(tmp_path / "run.zarr").attributes["imported"]["notes"] == done.notes


def test_a_disk_for_one_revision_is_enough(hub, tmp_path, monkeypatch):
    files = hub.repositories[REPOSITORY]["step0"]
    room = sum(len(content) for name, content in files.items() if name.startswith("model"))

    def usage(_):
        used = sum(p.stat().st_size for p in downloads(tmp_path))
        return SimpleNamespace(free=2**26 + int(1.9 * room) - used)

    monkeypatch.setattr(client.shutil, "disk_usage", usage)
    import_revisions(URL, tmp_path / "run.zarr", revisions="step*")
    require_all(tmp_path / "run.zarr")


def test_a_dry_run_downloads_headers_only(hub, tmp_path):
    held = hub.repositories[REPOSITORY]
    short = next(name for name in held["step512"] if "00002-of" in name)
    whole = held["step512"][short]
    held["step512"][short] = whole[:-7]
    found = estimate_revisions(URL, revisions="step*")
    assert not tmp_path.joinpath("home").exists()
    assert max(hub.sent.values()) < 2000
    assert {revision for revision, name in hub.sent if name.endswith("tensors")} == {"step0"}
    bits = [
        sum(len(c) for n, c in held[f"step{step}"].items() if n.endswith(".safetensors"))
        for step in STEPS
    ]
    assert found.notes == [f"revision step512 has {bits[2]} bytes of weights, step0 {bits[0]}"]
    assert (found.steps, found.bytes_read, found.seconds) == ([*STEPS], sum(bits), None)
    held["step512"][short] = whole
    done = import_revisions(URL, tmp_path / "run.zarr", revisions="step*")
    assert found.parameters == done.parameters == 64
    rows = open_run(tmp_path / "run.zarr").layout.rows
    assert found.tensors == {row.name: f"{row.dtype} {list(row.shape)}" for row in rows}
    assert found.bytes_stored == 4 * 64 * len(STEPS)
    held["step2000"] = files_of(tmp_path, 2000)
    more = estimate_revisions(URL, tmp_path / "run.zarr", revisions="step*")
    assert (more.steps, more.notes) == ([2000], [f"4 of 5 are in {tmp_path / 'run.zarr'} already"])


def test_a_dry_run_reads_only_the_asked_bytes_of_a_large_file(hub, tmp_path):
    tensors = {"wide.weight": torch.zeros(1000, 500, dtype=torch.bfloat16)}
    write_folder(tensors, tmp_path / "large", shard_bytes=2**40)
    content = (tmp_path / "large" / "model.safetensors").read_bytes()
    hub.repositories["models", "lab/large"] = {"step7": {"model.safetensors": content}}
    found = estimate_revisions("hf://lab/large@step7")
    assert (found.steps, found.bytes_read) == ([7], len(content))
    assert found.tensors == {"wide.weight": "bfloat16 [1000, 500]"}
    assert hub.sent["step7", "model.safetensors"] <= 100_001 < len(content)


def test_what_a_dry_run_cannot_know_is_told(hub, tmp_path):
    held = hub.repositories
    held["models", "lab/bin"] = {"step1": {"pytorch_model.bin": b"x" * 10}}
    found = estimate_revisions("hf://lab/bin", revisions="step*")
    assert (found.steps, found.parameters, found.bytes_read) == ([1], None, 10)
    assert found.notes == ["only safetensors tell their tensors before they are downloaded whole"]
    huge = b'{"a": {"dtype": "F32", "shape": [2305843009213693951], "data_offsets": [0, %d]}}'
    huge %= 4 * 2305843009213693951
    for content, said in [
        (b"x", "file is too small to be a valid"),
        (b"\xff" * 900, "header is too big"),
        (len(huge).to_bytes(8, "little") + huge, "says it holds 9,223,372,036,854,775,804 bytes"),
        ((2).to_bytes(8, "little") + b"{]", "not json-encoded"),
    ]:
        held["models", "lab/evil"] = {"step1": {"model.safetensors": content}}
        with pytest.raises(DataError, match=said) as error:
            estimate_revisions("hf://lab/evil@step1")
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"hf://lab/series@main has no step in its name"):
        estimate_revisions(URL)


def test_a_dropped_connection_costs_no_more_than_the_rest_of_a_file(hub, tmp_path):
    shard = next(f for f in hub.repositories[REPOSITORY]["step1"] if "00002-of" in f)
    hub.drop["step1", shard] = 40
    import_revisions(URL, tmp_path / "run.zarr", revisions="step*")
    require_all(tmp_path / "run.zarr")
    assert not hub.drop
    size = len(hub.repositories[REPOSITORY]["step1"][shard])
    assert size <= hub.sent["step1", shard] <= size + 40


@pytest.mark.parametrize(("memory", "imported"), [("1KiB", True), ("1GiB", False)])
def test_a_killed_import_goes_on_where_it_was(hub, tmp_path, memory, imported):
    shard = next(f for f in hub.repositories[REPOSITORY]["step512"] if "00002-of" in f)
    hub.stall = ("step512", shard)
    command = [sys.executable, "-m", "ckptlab", "import", URL, "--revisions", "step*"]
    command += ["-o", str(tmp_path / "run.zarr"), "--memory", memory]
    process = subprocess.Popen(command, env=dict(os.environ), stderr=subprocess.PIPE)
    assert hub.stalled.wait(200), process.communicate(timeout=5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    # What memory holds waits on the disk, and is imported together.
    held = open_run(tmp_path / "run.zarr").steps.tolist() if imported else []
    assert held == ([0, 1] if imported else [])
    assert {p.parent.name for p in downloads(tmp_path)} >= (set() if held else {"step0", "step1"})
    hub.stall = None
    hub.released.set()
    before = {key: count for key, count in hub.sent.items() if key[0] in ("step0", "step1")}
    assert import_revisions(URL, tmp_path / "run.zarr", revisions="step*").new == 4 - len(held)
    require_all(tmp_path / "run.zarr")
    assert {key: hub.sent[key] for key in before} == before
    assert not downloads(tmp_path)


def test_a_damaged_revision_ends_it_and_what_came_before_is_kept(hub, tmp_path):
    del hub.repositories[REPOSITORY]["step512"]["model-00001-of-00002.safetensors"]
    with pytest.raises(DataError, match="model-00001-of-00002") as error:
        import_revisions(URL, tmp_path / "run.zarr", revisions="step*")
    assert "\n" not in str(error.value)
    assert open_run(tmp_path / "run.zarr").steps.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("url", "pattern", "said"),
    [
        (URL, "iter*", r"no revision of hf://lab/series .* matches 'iter\*'; it has main, step0"),
        (URL, "main", "no revision of hf://lab/series that names a step matches 'main'"),
        (f"{URL}@step7", None, "has no revision 'step7'"),
        ("hf://lab/none", "step*", "hf://lab/none is not on http://127.0.0.1.*log in"),
        ("hf://lab/gated", "step*", "is gated: accept its terms at http.*/lab/gated, then log in"),
        ("hf://lab/texts", "step*", "hf://lab/texts at step1 holds no weights; accepted: files"),
        (f"{URL}/nowhere@step1", None, "names no repository|has no nowhere"),
        ("hf://lab/twice", "*", "revisions step1 and it1 of hf://lab/twice both count as step 1"),
    ],
)
def test_what_cannot_be_imported_is_told_in_one_line(hub, tmp_path, url, pattern, said):
    hub.gated.add("lab/gated")
    for name in ("gated", "texts"):
        hub.repositories["models", f"lab/{name}"] = {"step1": {"README.md": b"x"}}
    files = hub.repositories[REPOSITORY]["step1"]
    hub.repositories["models", "lab/twice"] = {"step1": files, "it1": files}
    with pytest.raises((DataError, ConfigError), match=said) as error:
        import_revisions(url, tmp_path / "run.zarr", revisions=pattern)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run.zarr").exists()
    with pytest.raises((DataError, ConfigError), match=said):
        estimate_revisions(url, revisions=pattern)


def test_no_network_no_space_and_names_that_are_none(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(client.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**26 + 5))
    with pytest.raises(NoSpaceError, match=r"needs [0-9,]+ bytes below .*home.*, where 5 are free"):
        import_revisions(URL, tmp_path / "run.zarr", revisions="step*")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"cannot be reached on http://127.*check the netw"):
        import_revisions(URL, tmp_path / "run.zarr", revisions="step*")
    for url in ("hf://lab", "hf://lab/a/../b", "hf://a b/c", "hf://lab/x@"):
        with pytest.raises(ConfigError, match="names no repository; accepted: hf://OWNER/NAME"):
            import_revisions(url, tmp_path / "run.zarr")


def test_another_run_is_not_added_to(hub, tmp_path):
    import_revisions(f"{URL}@step512", tmp_path / "run.zarr")
    hub.repositories["models", "lab/other"] = hub.repositories[REPOSITORY]
    with pytest.raises(RunExistsError, match="was not made of hf://lab/other; give another --out"):
        import_revisions("hf://lab/other", tmp_path / "run.zarr", revisions="step*")
    require_all(tmp_path / "run.zarr", (512,))
    import_revisions(URL, tmp_path / "run.zarr", revisions="step*", overwrite=True)
    require_all(tmp_path / "run.zarr")
