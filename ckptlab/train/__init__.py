"""The built-in trainer: settings, data, tasks, models, the step and the loop.

Imports record, store and errors; never analyze, run, experiments, report or cli. `config`,
`sections`, `presets` and the registries do not import torch, so that ``--help`` stays fast.
"""
