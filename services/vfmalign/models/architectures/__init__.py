"""Encoder architectures that can be built by name."""
