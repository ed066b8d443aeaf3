"""Tasks to start from; each is one file, and tests run it."""
