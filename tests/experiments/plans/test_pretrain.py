"""Tasks of pre-training, with settings of their own."""

import pytest

from ckptlab.errors import ConfigError
from ckptlab.experiments.plans.pretrain import label_tasks, pretraining_config
from ckptlab.train.assemble import build
from ckptlab.train.config import load_config

BLUR = {"name": "blur", "factor": 2}


def test_settings_of_a_task_reach_its_training():
    config = load_config(overrides=["model.name=mlp", "train.device=cpu"])
    for task, factor in ((BLUR, 2), ({"name": "blur"}, 4)):
        found = pretraining_config(config, task, 6)
        assert (found.task.name, found.task.factor, found.train.steps) == ("blur", factor, 6)
        build(found)
    with pytest.raises(ConfigError, match=r"task\.factor"):
        pretraining_config(config, {"name": "rotation", "factor": 2}, 6)


def test_labels_are_names_unless_they_repeat():
    assert label_tasks(["supervised", BLUR]) == {"supervised": {"name": "supervised"}, "blur": BLUR}
    assert list(label_tasks(["blur", BLUR])) == ["blur", "blur:factor=2"]
