"""The commands, one module per group: options in, calls, documents or tables out."""
