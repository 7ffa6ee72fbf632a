"""Metrics computed from the recorded weights and series."""
