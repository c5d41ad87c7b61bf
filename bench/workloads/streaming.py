"""vfmalign on rows that are never in memory at once: seeded noise that is stored nowhere."""

from __future__ import annotations

import math
from typing import Any

import torch

from bench.noise import GaussianRows
from vfmalign.client.messages.mmd import ComputeOptions, TestOptions
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.single_pass.fourier import fourier_mmd2


def fourier_features(*, rows: int, channels: int, shift: float, sigma: float, permutations: int) -> dict[str, Any]:
    """Runs random Fourier features over noise and its shifted copy."""
    x, y = _shifted(rows, channels, shift)
    options = ComputeOptions(pairing="paired", test=TestOptions(permutations=permutations))
    result = fourier_mmd2(x, y, options, ComputeConfig(), sigma=sigma)
    interval = result.mmd2.interval
    return {
        "value": result.mmd2.value,
        "lower": interval.lower if interval else math.nan,
        "upper": interval.upper if interval else math.nan,
        "approximation_error": result.approximation_error,
        "p": result.p_value.value,
    }


def drawing(*, rows: int, channels: int, shift: float) -> float:
    """Draws both streams and sum them, a lower bound on the time of the estimator."""
    total = torch.zeros((), dtype=torch.float64)
    for stream in _shifted(rows, channels, shift):
        for block_RC in stream.blocks(4096):
            total += block_RC.sum()
    return float(total) / (rows * channels)


def _shifted(rows: int, channels: int, shift: float) -> tuple[GaussianRows, GaussianRows]:
    """Returns noise, and the same noise around another mean: row i of both is one pair."""
    return GaussianRows(rows, channels, seed=0), GaussianRows(rows, channels, seed=0, mean=shift)
