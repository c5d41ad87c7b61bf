"""The commands, one module per group: they read options, call services, and write documents or tables."""
