"""Bounds, JSON and text of what comes from outside, for records and readers."""
