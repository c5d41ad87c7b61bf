"""The commands, with one module per group. The commands parse options, call services, and print documents or tables."""
