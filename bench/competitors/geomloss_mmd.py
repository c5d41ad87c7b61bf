"""geomloss: its kernel loss is half the biased MMD²."""

from __future__ import annotations

import numpy as np
import torch
from geomloss import SamplesLoss
from numpy.typing import NDArray


def value(x: NDArray[np.floating], y: NDArray[np.floating], *, sigma: float, backend: str) -> float:
    """Computes it with a backend: `tensorized` stores n×m, `online` is based on pykeops."""
    loss = SamplesLoss("gaussian", blur=sigma, backend=backend)
    return 2 * float(loss(torch.from_numpy(x), torch.from_numpy(y)))
