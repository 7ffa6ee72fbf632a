"""Verify, repair and repack a run."""
