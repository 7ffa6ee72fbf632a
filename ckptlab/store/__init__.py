"""The store: format 1, its writer and its readers. Knows nothing of networks or training."""
