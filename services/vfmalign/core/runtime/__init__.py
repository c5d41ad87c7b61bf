"""What every process needs: settings, logs, metrics, the work queue and the health probe."""
