"""The estimator that reads streams of rows once, in memory that does not grow with the rows."""
