"""Analysis of a check: gain, convergence, shift, verdict, and the records of its result."""
