"""torch-fidelity: its KID with the Gaussian kernel."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric


def value(x: NDArray[np.floating], y: NDArray[np.floating], *, sigma: float) -> float:
    """Computes it on one subset that holds all rows."""
    features = kid_features_to_metric(
        torch.from_numpy(x),
        torch.from_numpy(y),
        kid_subsets=1,
        kid_subset_size=len(x),
        kid_kernel="rbf",
        kid_kernel_rbf_sigma=sigma,
        verbose=False,
        rng_seed=0,
    )
    return float(features[KEY_METRIC_KID_MEAN])
