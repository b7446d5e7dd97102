"""Benchmarks of the systems: every network trained by one recipe on the same data, measured, tabled."""
