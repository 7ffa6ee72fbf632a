"""Readers of checkpoints: one module a family of layouts."""
