"""PACS: finds and downloads studies over DICOMweb."""
