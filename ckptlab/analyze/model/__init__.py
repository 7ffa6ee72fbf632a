"""Metrics that need the model, its loss and data."""
