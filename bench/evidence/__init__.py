"""A whole experiment on a stack of its own: on phantoms, or that of docs/evidence.md on real volumes."""
