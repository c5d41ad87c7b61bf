"""One comparison of two samples: layers, standardisation, tests and memory budget."""
