"""Scores of features by the classes of their cases."""
