"""Measures how fine-tuning changes the features of a vision foundation model, and how much the model improves."""

__version__ = "0.1.0"
