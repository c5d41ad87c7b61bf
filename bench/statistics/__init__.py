"""Simulations of tests, intervals and bounds: size, power beside competitors, coverage, and levels of experiments.

`python -m bench.statistics` takes about twenty minutes on two cores at the default sizes.
"""
