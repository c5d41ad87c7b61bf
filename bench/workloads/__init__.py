"""What is measured in the benchmark's own environment: vfmalign, textbook formulas and the bare matrix product.

Functions have the form of those in `bench.competitors`.
"""
