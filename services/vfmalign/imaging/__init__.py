"""Volumes in, tensors out: NIfTI, grids, preprocessing, datasets and phantoms. Knows nothing of gRPC or models."""
