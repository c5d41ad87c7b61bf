"""Positron emission tomography: values that are comparable between patients."""
