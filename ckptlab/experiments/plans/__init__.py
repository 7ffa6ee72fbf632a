"""Plans: which jobs each experiment consists of."""
