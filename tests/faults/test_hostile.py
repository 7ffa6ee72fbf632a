"""Runs from people one does not know: nothing in them is executed, followed or obeyed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ckptlab

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
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stdout


def calls(tree, name):
    """Calls of a function of this name, whatever it is an attribute of."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            if getattr(function, "attr", getattr(function, "id", None)) == name:
                yield node


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_module_can_unpickle(source):
    tree = ast.parse(source.read_text())
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        roots = {str(name).partition(".")[0] for name in names}
        assert not roots & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
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
