"""The version, alone, so that packaging and lazy imports can read it."""

__version__ = "0.2.0"
