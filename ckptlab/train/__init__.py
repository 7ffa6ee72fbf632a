"""Train networks from settings: data, tasks, models, the step and the loop.

Settings and registries do not import torch, so that ``--help`` stays fast.
"""
