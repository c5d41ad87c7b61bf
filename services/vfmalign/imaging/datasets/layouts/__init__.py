"""Layouts of folders. A layout determines which files are the cases of a dataset, and how the cases are described."""
