"""The feature service: runs encoders over studies and datasets."""
