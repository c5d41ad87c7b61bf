"""Gain of a fine-tuned network over a baseline, with intervals over training seeds and patients."""
