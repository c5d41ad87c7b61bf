"""Monitors the features of a deployed model for drift (docs/monitoring.md)."""
