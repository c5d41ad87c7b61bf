"""Studies as DICOM: received, downloaded and read, so that Extract sees the volumes that an import would store."""
