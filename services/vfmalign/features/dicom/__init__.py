"""Receives, downloads and reads DICOM studies, so that Extract uses the same volumes as an import."""
