"""Bounds, JSON and text of untrusted input, for records and readers."""
