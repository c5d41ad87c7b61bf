"""The bare matrix product: no MMD that forms its distances by GEMM can be faster than this."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TILES = ((512, 512), (1024, 1024), (2048, 2048), (256, 2048), (256, 4096))
SECONDS_PER_TILE = 0.1


def gemm(x: NDArray[np.floating], y: NDArray[np.floating], *, dtype: str) -> dict[str, Any]:
    """Time that the products of one MMD² take at the best throughput over libraries and tile sizes.

    Half of xx, half of yy and all of xy are (n + m)²·d FLOP: 2·n²·2d for n = m.
    """
    kind = getattr(torch, dtype)
    best, by = 0.0, ""
    for name, product in _products(kind).items():
        for rows, columns in TILES:
            a, b = torch.from_numpy(x[:rows]).to(kind), torch.from_numpy(y[:columns]).to(kind).T
            found = _throughput(product, a, b, torch.empty(len(a), b.shape[1], dtype=kind))
            if found > best:
                best, by = found, f"{name}, tiles of {len(a)} × {b.shape[1]}"
    flop = float(len(x) + len(y)) ** 2 * x.shape[1]
    return {"value": flop / best, "gflops": best / 1e9, "by": by}


def _throughput(product: Callable[[Tensor, Tensor, Tensor], object], a: Tensor, b: Tensor, out: Tensor) -> float:
    """FLOP per second of repeated products."""
    product(a, b, out)
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS_PER_TILE:
        product(a, b, out)
        calls += 1
    return calls * 2.0 * a.shape[0] * b.shape[1] * a.shape[1] / (time.perf_counter() - start)


def _products(kind: torch.dtype) -> dict[str, Callable[[Tensor, Tensor, Tensor], object]]:
    """The libraries at hand: torch's own choice, numpy's BLAS, and oneDNN, which torch takes for float32 only if told.

    Where there are no bf16 matrix units, oneDNN computes in float32 although bf16 is allowed.
    """
    products: dict[str, Callable[[Tensor, Tensor, Tensor], object]] = {"torch.mm": _torch_mm}
    if kind != torch.bfloat16:
        products["numpy"] = lambda a, b, out: np.matmul(a.numpy(), b.numpy(), out=out.numpy())
    if kind == torch.float32 and not torch.cpu._is_amx_tile_supported():
        products["oneDNN"] = _onednn_mm
    return products


def _torch_mm(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    return torch.mm(a, b, out=out)


def _onednn_mm(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    matmul = torch.backends.mkldnn.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        return torch.mm(a, b, out=out)
    finally:
        matmul.fp32_precision = before
