"""The bare matrix product: no MMD that forms its distances by GEMM can be faster than this."""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray

TILES = (512, 768, 1024, 1536, 2048)
SECONDS_PER_TILE = 0.15


def gemm(x: NDArray[np.floating], y: NDArray[np.floating], *, dtype: str) -> dict[str, float]:
    """Time that the products of one MMD² take at the best throughput over tile sizes.

    Half of xx, half of yy and all of xy are (n + m)²·d FLOP: 2·n²·2d for n = m.
    """
    kind = getattr(torch, dtype)
    best = 0.0
    for tile in TILES:
        a, b = torch.from_numpy(x[:tile]).to(kind), torch.from_numpy(y[:tile]).to(kind).T
        out = torch.empty(len(a), b.shape[1], dtype=kind)
        torch.mm(a, b, out=out)
        start, calls = time.perf_counter(), 0
        while time.perf_counter() - start < SECONDS_PER_TILE:
            torch.mm(a, b, out=out)
            calls += 1
        best = max(best, calls * 2.0 * a.shape[0] * b.shape[1] * a.shape[1] / (time.perf_counter() - start))
    flop = float(len(x) + len(y)) ** 2 * x.shape[1]
    return {"value": flop / best, "gflops": best / 1e9}
