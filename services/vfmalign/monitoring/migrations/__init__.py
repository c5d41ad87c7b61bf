"""Versions of the schema, one file each in `versions`. Never change a released version; add a new one."""
