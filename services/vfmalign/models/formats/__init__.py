"""Formats of foreign models: checkpoints, MONAI bundles and exported programs."""
