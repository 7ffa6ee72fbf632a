"""The built-in data sets: a registry, and a module for each source."""
