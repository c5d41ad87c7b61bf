"""What every process needs: errors, artifacts, settings, logs, metrics, the gRPC server and the object store."""
