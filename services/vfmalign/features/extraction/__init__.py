"""Extraction of features: loads encoders, prepares studies, and stores the parts of feature sets."""
