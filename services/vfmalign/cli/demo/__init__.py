"""The demo and the rehearsal on phantoms."""
