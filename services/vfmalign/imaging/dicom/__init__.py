"""DICOM examinations in, volumes out: reading, dividing, choosing and decoding series."""
