"""Monitors that run without a service. The functions take features and return a document that describes the monitor."""
