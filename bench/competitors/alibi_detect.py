"""alibi-detect (Business Source Licence): only compared with, never a dependency."""

from __future__ import annotations

import numpy as np
import torch
from alibi_detect.cd import MMDDrift
from alibi_detect.utils.pytorch.distance import mmd2
from alibi_detect.utils.pytorch.kernels import GaussianRBF
from numpy.typing import NDArray

Array = NDArray[np.floating]


def value(x: Array, y: Array, *, sigma: float) -> float:
    """Computes its `mmd2` with its Gaussian kernel."""
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    return float(mmd2(a, b, GaussianRBF(torch.tensor([sigma], dtype=a.dtype))))


def test(x: Array, y: Array, *, sigma: float, permutations: int, seed: int) -> dict[str, float]:
    """Runs its drift detector, fitted on x, on y."""
    torch.manual_seed(seed)
    width = np.array([sigma], x.dtype)
    detector = MMDDrift(x, backend="pytorch", sigma=width, n_permutations=permutations, device="cpu")
    data = detector.predict(y)["data"]
    return {"value": float(data["distance"]), "p": float(data["p_val"])}
