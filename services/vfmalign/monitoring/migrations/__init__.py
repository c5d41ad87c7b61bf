"""Versions of the database schema, one file per version. Never change a released version; add a new version."""
