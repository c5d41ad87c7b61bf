"""Analysis of scores and shifts: gain, convergence, verdict, transferability, experiments. Records in, records out."""
