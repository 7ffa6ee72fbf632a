import json
from importlib import metadata

import torch

from ckptlab.record.environment import describe_environment, device_model


def test_what_a_run_was_made_with_is_json():
    facts = json.loads(json.dumps(describe_environment(torch.device("cpu"))))
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["versions"]["zarr"] == metadata.version("zarr")
    assert facts["device"] == {"type": "cpu", "model": device_model(torch.device("cpu"))}
    assert facts["threads"] == torch.get_num_threads()
    assert facts["started"].endswith("Z")
