"""Database of the orchestrator: tables, migrations and pagination."""
