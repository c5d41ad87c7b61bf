"""Versions of the schema, one file each in `versions`. A released version never changes: add the next one."""
