"""Observations of Extract on their way to monitors: told at once, or stored durably and sent in order (ADR 0107)."""
