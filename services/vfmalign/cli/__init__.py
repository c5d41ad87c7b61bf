"""The command line program `vfmalign`."""
