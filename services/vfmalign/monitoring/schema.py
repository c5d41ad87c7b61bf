"""The schema of this service: the tables of monitors, and the lease of the leader."""

from __future__ import annotations

from vfmalign.database.database import Database
from vfmalign.database.schema import Schema
from vfmalign.database.settings import DEFAULT_TIMEOUT_S
from vfmalign.monitoring.tables import METADATA

SCHEMA = Schema("monitoring", "vfmalign.monitoring:migrations", METADATA, "monitoring")


def open_database(url: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> Database:
    """Opens the database of this service. See `Database`."""
    return Database(url, SCHEMA, timeout_s)
