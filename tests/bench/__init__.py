"""Benchmarks: `make bench` prints figures, nothing here fails for being slow."""
