"""Measurements over a recording: the registry in `metric`, the one-pass engine in `moments`."""
