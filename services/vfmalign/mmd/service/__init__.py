"""MmdService over gRPC."""
