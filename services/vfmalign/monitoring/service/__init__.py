"""`MonitoringService`: monitors in a database, their evidence, and what the leader adds to it."""
