"""Find what is wrong with a series of snapshots."""
