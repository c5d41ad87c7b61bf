"""Runtime support for all processes: settings, logs, metrics, the work queue and the health probe."""
