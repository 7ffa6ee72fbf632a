"""Plug-in files: Python files of a user whose decorators register metrics, models and the like."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

import cloudpickle

from ckptlab.errors import CkptlabError, PluginError
from ckptlab.registry import PLUGIN_PREFIX

VARIABLE = "CKPTLAB_PLUGINS"
"""Environment variable: files to load at every start, separated as `PATH` is."""


def load_plugins() -> None:
    """Load the files that `CKPTLAB_PLUGINS` names."""
    for file in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        load_plugin(file)


def load_plugin(file: str | os.PathLike[str]) -> ModuleType:
    """Import one file; worker processes started later load it as well.

    Parameters
    ----------
    file : path-like
        A Python file. Loading it twice does nothing.

    Returns
    -------
    module
        The file as a module, named ``ckptlab_plugin_`` and the file's stem.

    Raises
    ------
    PluginError
        If the file is missing or fails; names the file, the line and the problem.
    """
    path = Path(file).expanduser().resolve()
    name = PLUGIN_PREFIX + path.stem
    held = sys.modules.get(name)
    if held is not None:
        if held.__file__ == str(path):
            _inherit(path)
            return held
        raise PluginError(
            f"two plug-ins are called {path.stem}: {held.__file__} and {path}. Rename one of them."
        )
    if not path.is_file():
        raise PluginError(f"--plugin {file}: there is no such file")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"--plugin {file} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except CkptlabError as error:
        del sys.modules[name]
        # An error that names the file says it with the line.
        raise PluginError(f"{error}" if error.file else f"{file}: {error}") from error
    except Exception as error:
        del sys.modules[name]
        raise PluginError(f"{file}{_line(error, path)}: {_problem(error)}") from error
    # Classes and functions of the file travel to workers that have not loaded it.
    cloudpickle.register_pickle_by_value(module)
    _inherit(path)
    return module


def loaded_plugins() -> list[Path]:
    """Return the files that are loaded in this process."""
    modules = [m for name, m in sys.modules.items() if name.startswith("ckptlab_plugin_")]
    return [Path(module.__file__) for module in modules if module.__file__]


def _line(error: Exception, path: Path) -> str:
    """Return where in the file it failed, as `:LINE`."""
    if isinstance(error, SyntaxError):
        return f":{error.lineno}" if error.filename == str(path) else ""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f":{lines[-1]}" if lines else ""


def _problem(error: Exception) -> str:
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {message}".splitlines()[0]


def _inherit(path: Path) -> None:
    """Name the file to processes that this one starts."""
    held = [file for file in os.environ.get(VARIABLE, "").split(os.pathsep) if file]
    if str(path) not in held:
        os.environ[VARIABLE] = os.pathsep.join([*held, str(path)])
