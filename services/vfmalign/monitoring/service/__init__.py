"""`MonitoringService`: monitors in a database, their evidence, and the work of the leader."""
