"""MMDAgg (Schrab et al. 2023), in JAX: aggregates over a grid of bandwidths; compiled in the warm-up call."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from mmdagg.jax import mmdagg
from numpy.typing import NDArray

Array = NDArray[np.floating]


def test(x: Array, y: Array, *, permutations: int, seed: int, kernel: str) -> dict[str, float]:
    """Tests at its default ten bandwidths; half of the permutations set its level. The value is whether it rejects."""
    half = max(1, permutations // 2)
    rejects = mmdagg(jnp.asarray(x), jnp.asarray(y), kernel=kernel, B1=half, B2=max(1, permutations - half), seed=seed)
    return {"value": float(rejects)}
