"""Estimators that read streams of rows once, in bounded memory."""
