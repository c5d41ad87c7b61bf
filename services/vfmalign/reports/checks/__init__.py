"""The report of a check: its first screen, tables and figures."""
