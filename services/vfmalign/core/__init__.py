"""Base packages of all processes: errors, artifacts, settings, logs, metrics, the gRPC server and the object store."""
