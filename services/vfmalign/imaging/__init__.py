"""Volumes in, tensors out: NIfTI, grids, preprocessing, input transforms, datasets and phantoms."""
