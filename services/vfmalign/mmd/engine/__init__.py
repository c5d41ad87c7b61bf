"""Sums over kernel matrices, tile by tile, on CPU and CUDA devices, in bounded memory."""
