"""Implementations by hand: the textbook formulas in torch and numpy."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.floating]


def torch_formula(x: Array, y: Array, *, sigma: float, device: str = "cpu") -> float:
    """Computes MMD² from ‖x‖² + ‖y‖² − 2xy in torch, storing three n×m matrices."""
    a, b = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
    return _unbiased(_kernel(a, a, sigma), _kernel(b, b, sigma), _kernel(a, b, sigma))


def torch_cdist(x: Array, y: Array, *, sigma: float, device: str = "cpu") -> float:
    """Computes MMD² from the distances of torch.cdist."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(a, b).square() / (2 * sigma**2))

    a, b = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
    return _unbiased(kernel(a, a), kernel(b, b), kernel(a, b))


def torch_permuted(x: Array, y: Array, *, sigma: float, permutations: int, seed: int) -> dict[str, float]:
    """Tests with the whole kernel matrix of both samples, and all permutations in one product with it."""
    pooled, n, m = torch.from_numpy(np.concatenate([x, y])), len(x), len(y)
    k = _kernel(pooled, pooled, sigma).fill_diagonal_(0.0)
    generator = torch.Generator().manual_seed(seed)
    of_x = torch.zeros(n + m, 1 + permutations, dtype=k.dtype)
    of_x[:n, 0] = 1.0
    for column in range(1, 1 + permutations):
        of_x[torch.randperm(n + m, generator=generator)[:n], column] = 1.0
    of_y = 1.0 - of_x
    sums = k @ of_x
    xx, xy = (of_x * sums).sum(0, dtype=torch.float64), (of_y * sums).sum(0, dtype=torch.float64)
    yy = k.sum(dtype=torch.float64) - xx - 2 * xy
    values = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)
    p = (1 + int((values[1:] >= values[0]).sum())) / (1 + permutations)
    return {"value": float(values[0]), "p": p}


def numpy_formula(x: Array, y: Array, *, sigma: float) -> float:
    """Computes MMD² from ‖x‖² + ‖y‖² − 2xy in numpy."""

    def kernel(a: Array, b: Array) -> Array:
        squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * (a @ b.T)
        result: Array = np.exp(squared / (-2 * sigma**2))
        return result

    n, m = len(x), len(y)
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def _kernel(a: Tensor, b: Tensor, sigma: float) -> Tensor:
    squared = a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2 * (a @ b.T)
    return torch.exp(squared / (-2 * sigma**2))


def _unbiased(xx: Tensor, yy: Tensor, xy: Tensor) -> float:
    n, m = len(xx), len(yy)
    within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return float(within - 2 * xy.mean())
