"""Object storage and what it holds: datasets, feature sets and arrays."""
