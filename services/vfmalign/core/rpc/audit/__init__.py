"""Audit log: who called which method on which objects, with which outcome (docs/audit.md)."""
