"""Synthetic prostate-like MRI volumes with labels, for tests and demonstrations."""
