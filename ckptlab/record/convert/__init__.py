"""Turn a folder of checkpoints into a run."""
