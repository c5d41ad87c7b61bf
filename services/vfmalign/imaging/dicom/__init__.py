"""DICOM examinations: reads, divides, selects and decodes series into volumes."""
