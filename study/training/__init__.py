"""One training run: its config, its loop, its evaluations and its folder. Torch only."""
