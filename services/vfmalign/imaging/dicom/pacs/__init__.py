"""PACS: studies found and downloaded over DICOMweb."""
