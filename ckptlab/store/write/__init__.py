"""Write a run: blocks, commits and recovery."""
