"""Layouts of folders: which files are the cases of a dataset, and what describes them."""
