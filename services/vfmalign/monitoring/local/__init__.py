"""Monitors that run without a service. They take features and return a document."""
