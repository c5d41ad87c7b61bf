"""Object storage, with its datasets, feature sets and arrays."""
