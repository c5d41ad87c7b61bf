"""What scores and shifts mean: gain, convergence, verdict, transferability, experiments. Records in, records out."""
