"""Monitors without a service: stored features in, a document out (`python -m vfmalign.monitoring.local`)."""
