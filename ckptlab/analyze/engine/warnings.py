"""Warnings about what was measured: they do not stop a measurement, but go to stderr."""

from __future__ import annotations


class AnalysisWarning(UserWarning):
    """Base of the warnings of the analyze layer."""


class NaNWarning(AnalysisWarning):
    """Weights are NaN; the cells they belong to are NaN too."""


class UnfinishedRunWarning(AnalysisWarning):
    """The run is interrupted or still being recorded; what is committed was measured."""


class MissingInitWarning(AnalysisWarning):
    """Step 0 of a branch is not known, so nothing is compared with the initialisation."""


class MemoryLimitWarning(AnalysisWarning):
    """Fewer tasks run at a time than there are cores, so that the memory suffices."""


class SelectionWarning(AnalysisWarning):
    """Other weights were measured than the defaults name; the message says which."""
