"""The version, alone, so that packaging and lazy imports can read it."""

__version__ = "0.1.0.dev0"
