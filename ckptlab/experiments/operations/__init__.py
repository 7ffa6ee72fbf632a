"""What an experiment does to a snapshot: perturbations, pruning, re-initialisation."""
