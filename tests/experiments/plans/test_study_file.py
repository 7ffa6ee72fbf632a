import tomllib
from pathlib import Path

import pytest

from ckptlab.errors import CkptlabError, ConfigError, UnknownNameError
from ckptlab.experiments.jobs.job import MeasureJob, TrainJob
from ckptlab.experiments.jobs.plan import ExperimentPlan
from ckptlab.experiments.plans.study_file import KINDS, load_study, planner
from ckptlab.plugins import load_plugin
from ckptlab.train.data_root import VARIABLE

EXAMPLES = Path(__file__).parents[3] / "examples" / "early_phase"
FIGURES = [f"fig{number}" for number in range(1, 11)]

STUDY = """
kind = "imp"
summary = "a test"
rewind = [0, "1ep"]
levels = 2
replicates = 2

[config.model]
name = "mlp"

[config.train]
steps = 20

[scales.one]
levels = 1

[scales.one.config.train]
steps = 30

[scales.two]
rewind = [4]
"""


def written(tmp_path, text: str) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(text)
    return path


def planned(path: Path, scale: str | None = None, *overrides: str) -> ExperimentPlan:
    study = load_study(path, scale, overrides)
    plan = ExperimentPlan(title=study.summary, kind=study.kind)
    planner(study)(plan, study, 1)
    return plan


def test_scales_change_what_they_name_and_keep_the_rest(tmp_path):
    path = written(tmp_path, STUDY)
    first, two = load_study(path), load_study(path, "two")
    assert (first.levels, first.config["train"], first.config["model"]) == (
        1,
        {"steps": 30},
        {"name": "mlp"},
    )
    assert (two.levels, two.config["train"], two.rewind) == (2, {"steps": 20}, (4,))
    changed = load_study(path, "two", ["train.steps=25", "optim.lr=0.2"])
    assert changed.config["train"] == {"steps": 25}
    assert changed.config["optim"] == {"lr": 0.2}


def test_a_scale_that_names_other_data_drops_the_settings_of_the_first(tmp_path):
    data = '\n[config.data]\nname = "synthetic"\nimage_size = 8\ncrop = 1\n'
    path = written(tmp_path, STUDY + data + '[scales.two.config.data]\nname = "digits"\n')
    assert load_study(path).config["data"] == {"name": "synthetic", "image_size": 8, "crop": 1}
    assert load_study(path, "two").config["data"] == {"name": "digits", "crop": 1}


def test_each_replicate_is_a_training_of_its_own(tmp_path):
    plan = planned(written(tmp_path, STUDY), "two")
    assert plan.dims == {
        "pruning": ["imp"],
        "rewind": [4],
        "level": [0, 1, 2],
        "replicate": [0, 1],
    }
    dense = [job for job in plan.jobs.values() if job.source is None]
    assert [job.config.train.seed for job in dense] == [0, 1]
    assert len(plan.jobs) == 2 * 3
    # What is rewound to is recorded, and so is where a killed training is taken up again.
    assert dense[0].config.record.steps.startswith("0,4,")
    assert len(plan.cells) == 6


def read_by_torchvision(scale: str) -> list[str]:
    """Plan for CIFAR-10 without an image folder."""
    return [] if scale in ("small", "window", "paper") else ["data.name=cifar10"]


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("scale", ["small", "cifar", "paper"])
def test_the_figures_of_the_paper_can_be_planned(name, scale):
    path = EXAMPLES / f"{name}.toml"
    study, plan = load_study(path, scale), planned(path, scale, *read_by_torchvision(scale))
    assert study.figure == name
    assert name.removeprefix("fig") in study.summary.rpartition("figure ")[2]
    for key in plan.jobs:
        assert plan.needs(key) <= set(plan.jobs)
    trainings = [job for job in plan.jobs.values() if isinstance(job, TrainJob)]
    if scale != "small":
        assert {job.config.data.name for job in trainings} == {"cifar10"}
        assert len(plan.dims["replicate"]) >= (5 if scale == "paper" else 2)
    assert {cell.run for cell in plan.cells} <= set(plan.jobs)


@pytest.mark.parametrize("path", sorted(EXAMPLES.parent.glob("*.toml")), ids=lambda p: p.stem)
def test_the_other_examples_can_be_planned_at_every_scale(path, monkeypatch):
    monkeypatch.setenv("CKPTLAB_PLUGINS", "")
    script = path.with_suffix(".py")
    if script.exists():
        load_plugin(script)
    for scale in tomllib.loads(path.read_text())["scales"]:
        own = read_by_torchvision(scale) if scale == "cifar" else []
        plan = planned(path, scale, *own)
        assert plan.jobs
        assert {cell.run for cell in plan.cells} <= set(plan.jobs)


def test_figures_at_the_scale_of_two_cores_share_their_series():
    own = read_by_torchvision("cifar")
    plans = {n: planned(EXAMPLES / f"fig{n}.toml", "cifar", *own) for n in (1, 4, 5, 6, 7, 8)}
    common = set.intersection(*(set(plan.jobs) for plan in plans.values()))
    # Of each seed the dense training and the two levels rewound to 500.
    assert len(common) == 3 * 3
    # All that figure 8 correlates is done by the figures before it.
    assert set(plans[8].jobs) <= set().union(*(set(plans[n].jobs) for n in (4, 5, 6, 7)))


def test_figures_share_what_they_have_in_common():
    plans = [planned(EXAMPLES / f"fig{n}.toml", "small") for n in (4, 5, 6, 7)]
    common = set.intersection(*(set(plan.jobs) for plan in plans))
    # The dense training, both series of masks, and the weights as they are.
    assert len(common) >= 3 * (1 + 2 * 4)


def test_one_run_may_be_measured_more_than_once(tmp_path):
    text = 'kind = "record"\nmetrics = ["cosine", "sign-flips"]\n[config.train]\nsteps = 4\n'
    plan = planned(written(tmp_path, text))
    measures = [job for job in plan.jobs.values() if isinstance(job, MeasureJob)]
    assert [job.metric for job in measures] == ["cosine", "sign-flips"]
    assert len({job.run for job in measures}) == 1


def test_deficits_last_as_long_as_they_say(tmp_path):
    text = (
        'kind = "critical"\ndeficit = "random-labels"\nonsets = [0, 6]\ndurations = [0, "1ep"]\n'
        "clean = 20\n[config.model]\nname = 'mlp'\n"
    )
    plan = planned(written(tmp_path, text))
    by_place = {
        (cell.at["onset"], cell.at["duration"]): plan.jobs[cell.run].config for cell in plan.cells
    }
    assert set(by_place) == {(0, 0), (0, 12), (6, 0), (6, 12)}
    late = by_place[6, 12]
    assert (late.train.steps, late.task.stages[0].steps) == (38, "6:18")
    assert by_place[6, 0].task.stages == ()
    with pytest.raises(ConfigError, match="outlasts the training of 500 steps"):
        planned(written(tmp_path, text.replace("clean = 20\n", "").replace("6]", "495]")))


def test_pre_training_shares_its_proxies_and_masks(tmp_path):
    text = (
        'kind = "pretrain"\ntasks = ["supervised", "rotation"]\nlengths = [0, 6]\nlevels = 1\n'
        "[config.model]\nname = 'mlp'\n[config.train]\nsteps = 20\n"
    )
    plan = planned(written(tmp_path, text))
    # The dense parent, a proxy for each task, and a series of two for each of three beginnings.
    assert len(plan.jobs) == 1 + 2 + 2 * 3
    assert plan.dims["length"] == [0, 6]
    sparse = planned(written(tmp_path, "sparse = true\nat_levels = [1]\n" + text))
    assert sparse.dims["level"] == [1]
    masks = [job.mask for job in sparse.jobs.values() if job.mask is not None]
    assert len({mask.model_dump_json() for mask in masks}) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("rewind = ", "rewinds = "),
            r"unknown key of .*study\.toml: 'rewinds'. Did you mean 'rewind'",
        ),
        (("levels = 2", "levels = -1"), r"levels=-1 is not accepted \(number of prunings\)"),
        (('kind = "imp"', 'kind = "impp"'), "unknown kind of study 'impp'. Did you mean 'imp'"),
        (('kind = "imp"', ""), "unknown kind of study"),
        (("levels = 2", "levels = 2\nfraction = 1.5"), r"fraction=1\.5 is not accepted"),
        (('name = "mlp"', 'name = "mlpp"'), "Did you mean 'mlp'"),
        (("steps = 20", "stepz = 20"), r"train\.stepz"),
        (('rewind = [0, "1ep"]', 'rewind = ["init"]'), "init"),
        (('rewind = [0, "1ep"]', "rewind = [21]"), "accepted: 0 to 20"),
        (('rewind = [0, "1ep"]', ""), "rewind is missing"),
        (("[config.model]", "[config.model"), "is not TOML"),
        (("[config.train]", "[scales]\ntwo = 3\n[config.train]"), "scales must be tables"),
    ],
)
def test_what_is_no_study_is_said_in_a_line(tmp_path, change, said):
    text = STUDY.partition("[scales.one]")[0]
    assert change[0] in text
    with pytest.raises(CkptlabError, match=said):
        planned(written(tmp_path, text.replace(*change)))


def test_scales_and_files_that_are_not_there(tmp_path):
    with pytest.raises(UnknownNameError, match="one, two"):
        load_study(written(tmp_path, STUDY), "three")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_study(tmp_path / "none.toml")


def test_every_kind_has_a_planner():
    for kind in KINDS.values():
        assert kind.settings.__doc__
        assert callable(kind.planner)
        for name, field in kind.settings.model_fields.items():
            assert field.description or name == "kind"


def test_studies_that_record_what_both_need_share_their_trainings(tmp_path):
    text = STUDY.partition("[scales.one]")[0]
    first, other = written(tmp_path, text), tmp_path / "other.toml"
    other.write_text(text.replace('rewind = [0, "1ep"]', "rewind = [5]"))
    alone = [set(planned(path).jobs) for path in (first, other)]
    assert not alone[0] & alone[1]
    both = [planned(path, None, "record.steps='0, 5, 12'") for path in (first, other)]
    dense = [{k for k, job in plan.jobs.items() if job.source is None} for plan in both]
    assert dense[0] == dense[1]
    assert len(dense[0]) == 2
    # 3 is not among them, and is recorded besides.
    job = next(iter(planned(other, None, "record.steps=3").jobs.values()))
    assert job.config.record.steps.startswith("3,0,5,")


def test_images_are_read_where_the_user_says(tmp_path, monkeypatch):
    text = STUDY.replace('"1ep"', "4").replace(
        "[config.train]", '[config.data]\nname = "cifar10"\n[config.train]'
    )
    path = written(tmp_path, text)
    for job in planned(path).jobs.values():
        assert job.config.data.root is None
    before = set(planned(path).jobs)
    monkeypatch.setenv(VARIABLE, "/somewhere")
    for job in planned(path, None, "data.root=/else").jobs.values():
        assert job.config.data.root == "/somewhere"
    assert set(planned(path).jobs) == before


def test_another_name_drops_what_the_file_set_for_the_one_before(tmp_path):
    more = '[config.optim]\nschedule = "multistep"\nmilestones = [5, 8]\n[config.train]'
    path = written(tmp_path, STUDY.replace('"1ep"', "4").replace("[config.train]", more))
    for job in planned(path, None, "optim.schedule=constant").jobs.values():
        assert job.config.optim.schedule == "constant"
    kept = planned(path, None, "optim.lr=0.2").jobs.values()
    assert {(job.config.optim.lr, job.config.optim.milestones) for job in kept} == {(0.2, (5, 8))}
