"""vfmalign through its library functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfmalign.mmd import mmd2, mmd_test

Array = NDArray[np.floating]


def value(x: Array, y: Array, **options: Any) -> float:
    """Computes `mmd2` with these options."""
    return mmd2(x, y, **options)


def test(x: Array, y: Array, **options: Any) -> dict[str, Any]:
    """Runs `mmd_test` with these options, and returns the accuracy that it reports."""
    result = mmd_test(x, y, **options)
    return {
        "value": result.mmd2,
        "p": result.p_value,
        "error_bound": result.error_bound,
        "below_error_bound": result.below_error_bound,
        "precision": result.precision,
    }
