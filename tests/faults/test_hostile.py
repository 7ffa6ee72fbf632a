"""Runs from people one does not know: nothing in them is executed, followed or obeyed."""

import ast
import json
import shutil
import sys
from pathlib import Path

import pytest

import ckptlab
from ckptlab.errors import UntrustedNameError
from ckptlab.store.format.zarr_metadata import metadata_digest
from ckptlab.store.maintain.verify import verify
from tests.cli.commands import ckptlab as command
from tests.forks import run_code
from tests.trained import train_tiny

SOURCES = sorted(Path(ckptlab.__file__).parent.rglob("*.py"))

READ = """
import sys
import warnings
warnings.simplefilter("ignore")
import numba, numpy, torch, torch._dynamo, xarray, dask.array  # what they unpickle is their own
import ckptlab
from ckptlab.cli import main
from ckptlab.store.maintain.verify import verify
from tests.record.loops import everything, update
from tests.record.loops import record

path = sys.argv[1]
seen = []


def watch(event, _):
    if event.startswith(("pickle.", "marshal.load", "os.system", "subprocess", "socket.connect")):
        frame, files = sys._getframe(1), []
        while frame:
            files.append(frame.f_code.co_filename)
            frame = frame.f_back
        # Numba keeps compiled kernels; dask names objects by what it pickled of them itself.
        trusted = ("/numba/", "importlib", "/dask/tokenize")
        if not any(part in name for name in files for part in trusted):
            seen.append((event, files[:6]))


sys.addaudithook(watch)
run = ckptlab.open_run(path)
run.snapshot(3), run.state_dict(3), repr(run), run.dataset._repr_html_()
run.dataset.load(scheduler="threads")
run["first.weight"].values
run.stored.anchor(int(run.stored.anchors[-1]))
run.analyze("telemetry", by="tensor")
assert verify(path, deep=True).ok
model, optimizer = everything()
with record(path, model, optimizer, resume=True) as recorder:
    recorder.step(loss=update(model, optimizer, recorder.step_number))
print(seen)
"""


def test_reading_unpickles_and_executes_nothing(tmp_path):
    """Python tells of every object that is unpickled, every process and every connection."""
    from tests.record.loops import everything, record, run

    path = tmp_path / "run.zarr"
    model, optimizer = everything()
    with record(path, model, optimizer) as recorder:
        run(recorder, model, optimizer, 9)
    done = run_code(READ, str(path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stdout


NAMED = ("model.name", "data.name", "task.name", "optim.name", "optim.schedule")


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return train_tiny(tmp_path_factory.mktemp("honest") / "run.zarr", "model.name=mlp")


@pytest.mark.parametrize("place", NAMED)
def test_code_that_a_run_names_is_never_imported(honest, tmp_path, monkeypatch, place):
    """Opened, measured, reported, checked, exported and resumed, with the module at hand."""
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = shutil.copytree(honest, tmp_path / "run.zarr")
    root = json.loads((path / "zarr.json").read_text())
    attributes = root["attributes"]
    section, key = place.split(".")
    attributes["config"][section][key] = "evil_module:made"
    # Elsewhere, too: whatever a reader may take for a name.
    attributes |= dict.fromkeys(("codec_of", "metric", "plugin"), "evil_module:made")
    metadata = root["consolidated_metadata"]["metadata"]
    attributes["metadata_digest"] = metadata_digest(attributes, metadata)
    (path / "zarr.json").write_text(json.dumps(root))
    run = ckptlab.open_run(path)
    run.snapshot(3), run.state_dict(3), repr(run), run.dataset.load()
    assert verify(path, deep=True).ok
    for arguments, code in (
        (("info", path), 0),
        (("verify", path, "--deep"), 0),
        (("analyze", "telemetry", path), 0),
        (("export", path, "-o", tmp_path / "a.safetensors"), 0),
        (("report", path, "-o", tmp_path / "a.html"), 0),
        # Which needs the model, its data and the task, but no optimizer.
        (("analyze", "fisher-trace", path, "--samples", "8"), 0 if section == "optim" else 2),
        (("record", "--resume", path, "-S", "train.steps=20"), 2),
        (("record", "--from", f"{path}@3", "-o", tmp_path / "b.zarr"), 2),
    ):
        done = command(*arguments)
        assert done.returncode == code, (arguments, done.stderr)
        assert code == 0 or "--allow evil_module:made" in done.stderr
    if section != "optim":
        with pytest.raises(UntrustedNameError, match="evil_module:made"):
            run.analyze("hessian-spectrum", samples=8)
    assert "evil_module" not in sys.modules


def calls(tree, name):
    """Calls of a function of this name, whatever it is an attribute of."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            if getattr(function, "attr", getattr(function, "id", None)) == name:
                yield node


MAY_UNPICKLE = {
    # Imports no class that a file names; `test_hostile_files` attacks it.
    "ckptlab/record/convert/readers/dcp.py": {"pickle"},
    # What this process sends its own workers; nothing of a run.
    "ckptlab/plugins.py": {"cloudpickle"},
    "ckptlab/analyze/model/parallel.py": {"cloudpickle"},
}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_module_can_unpickle(source):
    tree = ast.parse(source.read_text())
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        roots = {str(name).partition(".")[0] for name in names}
        allowed = next((v for k, v in MAY_UNPICKLE.items() if str(source).endswith(k)), set())
        assert (
            not roots & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"} - allowed
        )
    for name in ("eval", "exec", "system", "__import__", "read_pickle", "unpickle"):
        found = [c for c in calls(tree, name) if isinstance(c.func, ast.Name) or name != "eval"]
        assert not found, f"{source}: {name}"
    for call in calls(tree, "load"):
        if getattr(call.func, "value", None) is None:
            continue
        options = {k.arg: getattr(k.value, "value", None) for k in call.keywords}
        owner = ast.unparse(call.func.value)
        assert owner != "torch" or options.get("weights_only") is True, source
        assert owner != "np" or options.get("allow_pickle") is False, source
