"""MMD-FUSE (Biggs, Schrab, Gretton 2023), in JAX: combines a grid of bandwidths; compiled in the warm-up call."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import random
from mmdfuse import mmdfuse
from numpy.typing import NDArray

Array = NDArray[np.floating]


def test(x: Array, y: Array, *, permutations: int, seed: int, kernels: list[str]) -> dict[str, float]:
    """Tests at its default ten bandwidths per kernel; the value is whether it rejects at 5 %."""
    rejects, p = mmdfuse(
        jnp.asarray(x),
        jnp.asarray(y),
        random.PRNGKey(seed),
        kernels=tuple(kernels),
        number_permutations=permutations,
        return_p_val=True,
    )
    return {"value": float(rejects), "p": float(p)}
