"""What is trained besides a language model."""
