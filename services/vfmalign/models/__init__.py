"""VFM architectures, checkpoint formats and model cards; knows nothing of gRPC or of how volumes are prepared."""
