"""HTML report of an experiment, its figures and its table of cells."""
