"""Terminal output: tables, labels and progress."""
