"""evidently: MMD of embeddings with a bandwidth of its own, a sampled median; negative values become 0."""

from __future__ import annotations

import numpy as np
import pandas as pd
from evidently.legacy.metrics.data_drift.embedding_drift_methods import mmd
from numpy.typing import NDArray


def value(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Its drift score."""
    score, _, _ = mmd(threshold=0.0)(pd.DataFrame(y), pd.DataFrame(x))
    return float(score)
