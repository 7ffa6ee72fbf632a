"""Small plain implementations that the package is checked against; see `plain.py`."""
