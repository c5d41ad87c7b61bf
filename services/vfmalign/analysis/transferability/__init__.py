"""Transferability scores: how well features predict the classes of their cases."""
