"""gRPC servers and channels: interceptors, TLS, tensors and the mapping of errors to statuses."""
