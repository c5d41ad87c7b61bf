"""Estimators, permutations, uncertainty, bandwidths and similarity measures."""
