"""Studies as DICOM: receives, downloads and reads them, so that Extract sees the same volumes as an import."""
