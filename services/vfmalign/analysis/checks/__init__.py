"""Results of one alignment check: its records, shift, verdict and cautions."""
