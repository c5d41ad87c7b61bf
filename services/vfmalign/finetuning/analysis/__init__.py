"""Analysis of a check: gain, convergence, verdict and the records of its result."""
