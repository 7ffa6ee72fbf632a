"""What a recording captures of a model and its optimizer."""
