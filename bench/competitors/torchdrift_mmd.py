"""torchdrift: includes the diagonals of XX and YY, so that its value is a different statistic."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torchdrift.detectors.mmd import GaussianKernel, kernel_mmd

Array = NDArray[np.floating]


def value(x: Array, y: Array, *, sigma: float) -> float:
    """Computes its `kernel_mmd` without permutations."""
    return float(kernel_mmd(torch.from_numpy(x), torch.from_numpy(y), n_perm=None, kernel=GaussianKernel(sigma)))


def test(x: Array, y: Array, *, sigma: float, permutations: int, seed: int) -> dict[str, float]:
    """Computes its `kernel_mmd` with permutations."""
    torch.manual_seed(seed)
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    statistic, p = kernel_mmd(a, b, n_perm=permutations, kernel=GaussianKernel(sigma))
    return {"value": float(statistic), "p": float(p)}
