"""Runs jobs as Kubernetes Jobs; nothing outside this package knows Kubernetes."""
