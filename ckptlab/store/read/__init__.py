"""Read a run: committed steps, snapshots and optimizer states."""
