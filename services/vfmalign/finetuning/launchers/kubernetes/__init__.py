"""Launcher that runs training as Kubernetes Jobs."""
