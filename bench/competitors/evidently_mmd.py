"""evidently: MMD of embeddings at the median of sampled distances; negative values are clipped to 0."""

from __future__ import annotations

import numpy as np
import pandas as pd
from evidently.legacy.metrics.data_drift.embedding_drift_methods import mmd
from numpy.typing import NDArray


def value(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Computes its drift score."""
    score, _, _ = mmd(threshold=0.0)(pd.DataFrame(y), pd.DataFrame(x))
    return float(score)
