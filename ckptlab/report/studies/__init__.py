"""The report on a study: bars, curves and tables over its results."""
