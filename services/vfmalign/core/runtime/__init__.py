"""Foundations of every process: settings, logs, metrics, the work queue and the health probe."""
