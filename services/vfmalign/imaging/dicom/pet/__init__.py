"""Positron emission tomography: converts values so that they are comparable between patients."""
