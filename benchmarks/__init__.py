"""Measurements of ckptlab against what a user would pick instead: one module a question."""
