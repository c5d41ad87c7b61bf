"""Dashboards, objectives and alerts, from which `make dashboards` writes the files for Grafana and Prometheus."""
