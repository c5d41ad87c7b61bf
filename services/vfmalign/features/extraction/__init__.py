"""Extraction: encoders, studies and the parts of feature sets."""
