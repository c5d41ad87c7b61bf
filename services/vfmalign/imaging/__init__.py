"""Volumes in, tensors out: NIfTI, DICOM, grids, preprocessing, input transforms, datasets and phantoms."""
