"""Measures how fine-tuning changes the features of a vision foundation model, and how much performance it gains."""

__version__ = "0.1.0"
