"""Estimators that read streams of rows once, in memory that does not grow with the rows."""
