"""Estimator that reads streams of rows once. Its memory does not grow with the number of rows."""
