"""Convergence speed, and the learning curves that it is read from."""
