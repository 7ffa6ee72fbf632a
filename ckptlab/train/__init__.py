"""The built-in trainer: settings, data, tasks, models, the step and the loop.

`config`,
`sections`, `presets` and the registries do not import torch, so that ``--help`` stays fast.
"""
