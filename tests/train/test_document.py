import re
from pathlib import Path

import pytest

from ckptlab.train.config import load_config
from ckptlab.train.document import training_page
from ckptlab.train.estimate import plan

DOCS = Path(__file__).parents[2] / "docs" / "training.md"


def test_the_documentation_is_current():
    assert DOCS.read_text() == training_page()


@pytest.mark.parametrize("text", re.findall(r"```toml\n(.*?)```", training_page(), re.DOTALL))
def test_examples_can_be_planned(text, tmp_path):
    path = tmp_path / "example.toml"
    path.write_text(text)
    assert plan(load_config(path)).recorded_steps > 0


def test_settings_in_commands_are_accepted():
    # Numbers in place of what the shell fills in.
    page = re.sub(r"\$\(\(.*?\)\)|\$\{?\w+\}?", lambda found: str(len(found[0])), training_page())
    found = re.findall(r'-S (?:"(.+?)"|([\w.]+=\S+))', page)
    settings = [quoted or bare for quoted, bare in found]
    settings.remove("section.key=value")
    assert len(settings) == 7
    for setting in settings:
        load_config(overrides=[setting])
