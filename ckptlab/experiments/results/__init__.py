"""Results of experiments: gathering, opening and summarising them."""
