import re
from pathlib import Path

import pytest

from ckptlab.experiments.document import experiments_page
from ckptlab.experiments.jobs.plan import Plan
from ckptlab.experiments.operations.registry import parse_kind
from ckptlab.experiments.plans.study_file import load_study, planner

DOCS = Path(__file__).parents[2] / "docs" / "experiments.md"


def test_the_documentation_is_current():
    assert DOCS.read_text() == experiments_page()


@pytest.mark.parametrize("text", re.findall(r"```toml\n(.*?)```", experiments_page(), re.DOTALL))
def test_studies_in_it_can_be_planned(text, tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(text)
    study = load_study(path)
    plan = Plan(title="", kind=study.kind)
    planner(study)(plan, study, 1)
    assert len(plan.cells) == 2 * 3 * 3


def test_kinds_in_it_are_kinds():
    found = re.findall(r"--kind (\w+:[\w,.-]+)", experiments_page())
    assert [str(parse_kind(kind)) for kind in found] == ["shuffle:filter,keep-signs", "noise:1.0"]
