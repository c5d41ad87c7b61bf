"""The monitoring service as a process, as its integration tests start it."""

from __future__ import annotations

from tests.integration.monitoring.conftest import database, database_url, environment, service

__all__ = ["database", "database_url", "environment", "service"]
