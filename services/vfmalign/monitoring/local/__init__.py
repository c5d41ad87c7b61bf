"""Monitors without a service: take features, return a document."""
