"""The commands, with one module per group. They parse options, call services, and print documents or tables."""
