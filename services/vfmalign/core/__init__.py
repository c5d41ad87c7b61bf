"""Foundations of every process: errors, artifacts, settings, logs, metrics, the gRPC server and the object store."""
