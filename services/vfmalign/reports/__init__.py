"""HTML reports of checks, experiments and drift monitors."""
