"""Experiments on the snapshots of a recording: prune, perturb, retrain, connect, as jobs."""
