"""Series and runs on the Hugging Face Hub."""
