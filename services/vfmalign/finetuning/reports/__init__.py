"""HTML report of a check: figures, formatting and templates."""
