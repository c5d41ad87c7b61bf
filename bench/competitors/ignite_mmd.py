"""pytorch-ignite: the mean over batches of the root of MMD², negatives clipped to 0."""

from __future__ import annotations

import numpy as np
import torch
from ignite.metrics import MaximumMeanDiscrepancy
from numpy.typing import NDArray


def value(x: NDArray[np.floating], y: NDArray[np.floating], *, sigma: float) -> float:
    """Computes the square of its metric, with all rows in one batch."""
    metric = MaximumMeanDiscrepancy(var=sigma**2)
    metric.reset()
    metric.update((torch.from_numpy(x), torch.from_numpy(y)))
    return float(metric.compute()) ** 2
