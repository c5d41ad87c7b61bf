"""Architectures, checkpoint formats, model cards and the registry of vision foundation models."""
