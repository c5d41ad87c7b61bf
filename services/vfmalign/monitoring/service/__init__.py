"""`MonitoringService`: stores monitors in a database, updates their evidence and does the work of the leader."""
