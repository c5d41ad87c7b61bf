"""Simulations of tests and intervals: size, power beside competitors, and coverage.

`python -m bench.statistics` takes about ten minutes on two cores at the default sizes.
"""
