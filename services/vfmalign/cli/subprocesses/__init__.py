"""Comparisons and monitors in subprocesses of this machine, without a service."""
