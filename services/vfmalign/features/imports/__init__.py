"""Imports: checks and publishes datasets and models that clients upload."""
