"""Triton backend of the engine for CUDA devices."""
