"""`python -m study.bench.gpu`: how fast and how exact a preset trains on a GPU, on a machine that needs no Ray."""
