"""What trackers have received, read back with their own readers."""

import struct

import numpy as np
import pytest
import xarray as xr

import ckptlab
from ckptlab.analyze.trackers import TRACKERS, find_tracker, send
from ckptlab.errors import ConfigError, MissingExtraError, UnknownNameError

STEPS = np.array([0, 1, 5])


def result(**attrs):
    """Of two layers, with a NaN, and evaluations at other steps."""
    return xr.Dataset(
        {
            "sign_flips": (("layer", "step"), [[np.nan, 0.5, 0.25], [0, 1.0, 2.0]]),
            "eval_loss": ("eval_step", [3.0, 1.5]),
            "text": "words",
        },
        {"step": STEPS, "eval_step": [0, 4], "layer": np.array(["a.b", "c"], object)},
        {"metric": "telemetry", "run": "runs/first.zarr", **attrs},
    )


CURVES = {
    "sign_flips/a.b": {1: 0.5, 5: 0.25},
    "sign_flips/c": {0: 0.0, 1: 1.0, 5: 2.0},
    "eval_loss": {0: 3.0, 4: 1.5},
}


def read_tensorboard(place):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(f"{place}/first", size_guidance={"tensors": 0})
    events.Reload()
    from tensorboard.util.tensor_util import make_ndarray

    return {
        tag: {e.step: float(make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)}
        for tag in events.Tags()["tensors"]
    }


def read_mlflow(place):
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(place)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "first"
    assert run.info.status == "FINISHED"
    assert run.data.tags["metric"] == "telemetry"
    names = run.data.metrics
    return {
        n: {m.step: m.value for m in client.get_metric_history(run.info.run_id, n)} for n in names
    }


def leveldb_records(data, block=2**15):
    """The records of a log file in LevelDB's format, behind W&B's header of 7 bytes."""
    place, parts = 7, []
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts.append(data[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def read_wandb(place):
    from wandb.proto import wandb_internal_pb2

    (file,) = place.glob("wandb/offline-run-*/*.wandb")
    found = {}
    for data in leveldb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            for item in record.history.item:
                name = item.key or item.nested_key[0]
                if not name.startswith("_"):
                    found.setdefault(name, {})[record.history.step.num] = float(item.value_json)
    return found


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_tracker_receives_every_finite_number_at_its_step(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    if name == "mlflow":
        import mlflow

        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    place = str(tmp_path / "logs") if name == "tensorboard" else "place"
    tracker, given = find_tracker(f"{name}={place}")
    (where,) = send(result(), tracker, given)
    assert where
    read = {"tensorboard": read_tensorboard, "mlflow": read_mlflow, "wandb": read_wandb}[name]
    found = read(tmp_path if name == "wandb" else place)
    assert found.keys() == CURVES.keys()
    for key, curve in CURVES.items():
        assert found[key] == pytest.approx(curve)


def test_several_runs_are_several_runs_of_the_tracker():
    seen = []

    @ckptlab.tracker(name="list-of-points")
    def collect(place, name, config, points):
        """Collect."""
        seen.append((place, name, dict(points)))
        return name

    one = result()["eval_loss"]
    both = xr.concat([one, one + 1], "run").assign_coords(run=["runs/a.zarr", "runs/b.zarr"])
    tracker, place = find_tracker("list-of-points")
    assert send(both.assign_attrs(metric="evaluation"), tracker, place) == ["a", "b"]
    assert seen[1] == ("ckptlab", "b", {0: {"eval_loss": 4.0}, 4: {"eval_loss": 2.5}})


@pytest.mark.parametrize(
    ("dataset", "problem"),
    [
        (xr.Dataset({"weight": (("param", "step"), np.zeros((2, 3)))}), "values of single weights"),
        (xr.Dataset({"x": (("layer", "step"), np.zeros((1001, 3)))}), "has 1,001 curves; up to"),
        (xr.Dataset({"x": ("phase", np.zeros(3))}), "holds no numbers over steps to send"),
    ],
)
def test_what_is_no_curve_is_not_sent(tmp_path, dataset, problem):
    dataset = dataset.assign_coords(step=STEPS) if "step" in dataset.dims else dataset
    with pytest.raises(ConfigError, match=problem):
        send(dataset, TRACKERS["tensorboard"], str(tmp_path / "never"))
    assert not (tmp_path / "never").exists()


def test_a_tracker_must_exist_and_be_installed(monkeypatch):
    with pytest.raises(UnknownNameError, match="tensorboard"):
        find_tracker("tensorbord")
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ckptlab\[wandb\]'"):
        find_tracker("wandb")
