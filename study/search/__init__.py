"""`python -m study.search`: the study itself, from its command line to its results."""
