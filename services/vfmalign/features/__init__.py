"""The feature service: runs an encoder over studies and datasets. Knows nothing of fine-tuning or MMD."""
