"""The built-in networks: a registry of families, and a module for each."""
