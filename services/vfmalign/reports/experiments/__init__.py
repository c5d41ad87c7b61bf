"""The report of an experiment: first screen, figures, table of cells."""
