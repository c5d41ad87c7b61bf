"""Launchers: start, observe and stop training processes."""
