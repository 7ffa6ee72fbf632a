"""Callbacks that record a training which another library runs, one module a library."""
