"""``--plugin``, ``--allow`` and ``CKPTLAB_PLUGINS``, before any command."""

from __future__ import annotations

import sys

import pytest

from ckptlab import registry
from ckptlab.plugins import VARIABLE


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    """Unload what a test loaded."""
    before = set(sys.modules)
    monkeypatch.setenv(VARIABLE, "")
    yield
    for name in set(sys.modules) - before:
        if name.startswith("ckptlab_plugin_"):
            del sys.modules[name]


def test_files_are_loaded_in_order_before_the_command(call, tmp_path):
    for name in ("one", "two"):
        text = f"import sys\nsys.stderr.write('{name} loaded ')\n"
        (tmp_path / f"{name}.py").write_text(text)
    files = [tmp_path / "one.py", tmp_path / "two.py"]
    code, out, err = call("--plugin", files[0], "--plugin", files[1], "analyze", "list")
    assert code == 0
    assert err == "one loaded two loaded "
    assert "sign-flips" in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (", ":1: SyntaxError"),
        ("import nowhere_at_all", ":1: ModuleNotFoundError"),
        (None, "there is no such file"),
    ],
)
@pytest.mark.parametrize("by", ["flag", "variable"])
def test_a_bad_file_is_one_line(call, tmp_path, monkeypatch, text, message, by):
    path = tmp_path / f"bad_{by}.py"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv(VARIABLE, str(path) if by == "variable" else "")
    given = ["--plugin", path] if by == "flag" else []
    code, out, err = call(*given, "analyze", "list")
    assert (code, out) == (2, "")
    assert message in err
    assert str(path) in err
    assert len(err.splitlines()) == 1


def test_allow_names_code_that_runs_may_name(call):
    assert call("--allow", "some.module:thing", "analyze", "list")[0] == 0
    assert "some.module:thing" in registry.allowed()
