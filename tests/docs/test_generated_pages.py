"""The generated pages are current, and what they show works."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from ckptlab.experiments.jobs.plan import ExperimentPlan
from ckptlab.experiments.operations.registry import parse_kind
from ckptlab.experiments.plans.study_file import load_study, planner
from ckptlab.train.config import load_config
from ckptlab.train.estimate import training_size
from tests.forks import run_forked

DOCS = Path(__file__).parents[2] / "docs"

spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
assert spec is not None
assert spec.loader is not None
generate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generate)


def read(page: str) -> str:
    return (DOCS / f"{page}.md").read_text()


def _print_pages() -> None:
    print(json.dumps({page: generate.render(page) for page in generate.PAGES}))


@pytest.fixture(scope="module")
def rendered():
    """The pages as a new process makes them, where no test has registered anything."""
    done = run_forked(_print_pages)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("page", generate.PAGES)
def test_a_page_is_current(rendered, page):
    assert read(page) == rendered[page], "run: python docs/generate.py"


def toml_in(page: str) -> list[str]:
    return re.findall(r"```toml\n(.*?)```", read(page), re.DOTALL)


@pytest.mark.parametrize("text", toml_in("training"))
def test_configs_can_be_planned(text, tmp_path):
    path = tmp_path / "example.toml"
    path.write_text(text)
    assert training_size(load_config(path)).recorded_steps > 0


def test_settings_in_commands_are_accepted():
    # Numbers in place of what the shell fills in.
    page = re.sub(r"\$\(\(.*?\)\)|\$\{?\w+\}?", lambda found: str(len(found[0])), read("training"))
    found = re.findall(r'-S (?:"(.+?)"|([\w.]+=\S+))', page)
    settings = [quoted or bare for quoted, bare in found]
    settings.remove("section.key=value")
    assert len(settings) == 10
    own = next(setting for setting in settings if setting.startswith("model.name="))
    for setting in settings:
        load_config(overrides=[own, setting] if ".options." in setting else [setting])


@pytest.mark.parametrize("text", toml_in("experiments"))
def test_studies_can_be_planned(text, tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(text)
    study = load_study(path)
    planned = ExperimentPlan(title="", kind=study.kind)
    planner(study)(planned, study, 1)
    assert len(planned.cells) == 2 * 3 * 3


def test_kinds_are_kinds():
    found = re.findall(r"--kind (\w+:[\w,.-]+)", read("experiments"))
    assert [str(parse_kind(kind)) for kind in found] == ["shuffle:filter,keep-signs", "noise:1.0"]
