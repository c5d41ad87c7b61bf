"""pykeops: LazyTensors, which never store the matrix."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pykeops.torch import LazyTensor


def value(x: NDArray[np.floating], y: NDArray[np.floating], *, sigma: float) -> float:
    """Computes the unbiased form from three sums."""

    def total(a: torch.Tensor, b: torch.Tensor) -> float:
        squared = ((LazyTensor(a[:, None, :]) - LazyTensor(b[None, :, :])) ** 2).sum(-1)
        return float((-squared / (2 * sigma**2)).exp().sum(dim=1).double().sum())

    n, m = len(x), len(y)
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    return (total(a, a) - n) / (n * (n - 1)) + (total(b, b) - m) / (m * (m - 1)) - 2 * total(a, b) / (n * m)
