"""The benchmark: contestants take turns in one run, and medians over several rounds count."""
