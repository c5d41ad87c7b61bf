"""The report of a check: first screen, tables, figures."""
