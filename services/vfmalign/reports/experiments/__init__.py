"""The report of an experiment: its first screen, its figures and its table of cells."""
