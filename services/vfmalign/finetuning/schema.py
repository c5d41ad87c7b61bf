"""The schema of this service: the tables of jobs, checks and experiments, and the lease of the leader."""

from __future__ import annotations

from vfmalign.database.database import Database
from vfmalign.database.schema import Schema
from vfmalign.database.settings import DEFAULT_TIMEOUT_S
from vfmalign.database.tables import Base
from vfmalign.finetuning import deleted as _deleted
from vfmalign.finetuning.checks import tables as _checks
from vfmalign.finetuning.experiments import tables as _experiments
from vfmalign.finetuning.jobs import tables as _jobs

_TABLES = (_jobs, _checks, _experiments, _deleted)
"""Modules that add their tables to `Base` when they are imported."""
SCHEMA = Schema("finetuning", "vfmalign.finetuning:migrations", Base.metadata, "orchestrator")


def open_database(url: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> Database:
    """Opens the database of this service. See `Database`."""
    return Database(url, SCHEMA, timeout_s)
