"""Alembic migrations of the orchestrator's tables."""
