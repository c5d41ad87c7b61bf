"""Imaging: NIfTI, DICOM, grids, preprocessing, input transforms, datasets and phantoms."""
