"""Object storage, and the datasets, feature sets and arrays in it."""
