"""Imports: datasets and models that clients upload, checked and published."""
