"""Typed Python client of the public API, without torch."""
