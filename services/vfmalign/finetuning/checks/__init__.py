"""Alignment checks: their repository, API, stages and reconciler."""
