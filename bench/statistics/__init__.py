"""Simulations of tests and intervals: size, power beside competitors, coverage, and levels of an experiment's tests.

`python -m bench.statistics` takes about ten minutes on two cores at the default sizes.
"""
