"""Nothing in the package's registries goes without an oracle, and the documentation lists them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from ckptlab.analyze.registry.entries import ENTRIES
from ckptlab.experiments.operations.criteria import PRUNING
from ckptlab.experiments.operations.registry import PERTURBATIONS
from ckptlab.train.optimizers import OPTIMIZERS
from ckptlab.train.tasks.registry import TASKS
from tests.oracles import table
from tests.oracles.plain import ORACLES

table.load()
REGISTRIES = {
    "metric": {entry.name for entry in ENTRIES},
    "task": set(TASKS),
    "optimizer": set(OPTIMIZERS),
    "perturbation": set(PERTURBATIONS),
    "pruning": set(PRUNING),
}


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_entry_has_an_oracle(kind: str) -> None:
    covered = {name for known, name in ORACLES if known == kind}
    assert covered == REGISTRIES[kind]


def test_oracles_import_nothing_of_the_package() -> None:
    for name in (*table.MODULES, "plain", "matrix"):
        tree = ast.parse((Path(table.__file__).parent / f"{name}.py").read_text())
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not [found for found in names if found.split(".")[0] == "ckptlab"]


def test_the_documentation_is_current() -> None:
    text = table.DOCUMENT.read_text()
    assert text == table.insert(text), "run: python -m tests.oracles.table"
