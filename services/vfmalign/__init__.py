"""Measures how far a vision foundation model's features move in fine-tuning, and what the fine-tuning gains."""

__version__ = "0.1.0"
