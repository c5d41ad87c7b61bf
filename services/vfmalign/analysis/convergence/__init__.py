"""Convergence speed, measured on learning curves."""
