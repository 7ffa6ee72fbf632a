"""Jobs: their specification, folder, workers and scheduler."""
