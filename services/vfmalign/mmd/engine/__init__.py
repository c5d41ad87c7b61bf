"""Sums over kernel matrices, computed tile by tile in bounded memory on CPU and CUDA devices."""
