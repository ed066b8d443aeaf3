"""The benchmark: contestants in turn, in one run, medians of several rounds."""
