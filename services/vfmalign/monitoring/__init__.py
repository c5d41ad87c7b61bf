"""Drift monitoring of inference-time features (docs/monitoring.md)."""
