"""The bare matrix product: no MMD that forms its distances by GEMM can be faster than this."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TILES = ((512, 512), (1024, 1024), (2048, 2048), (256, 2048), (256, 4096))
SECONDS_PER_TRIAL = 0.1

Product = Callable[[Tensor, Tensor, Tensor], object]


@dataclass(frozen=True)
class Trial:
    """One library at one tile, with its operands."""

    library: str
    product: Product
    a: Tensor
    b: Tensor
    out: Tensor

    def seconds(self, calls: int) -> float:
        """Of repeated products."""
        start = time.perf_counter()
        for _ in range(calls):
            self.product(self.a, self.b, self.out)
        return time.perf_counter() - start

    @property
    def flop(self) -> float:
        """Of one product."""
        return 2.0 * self.out.numel() * self.a.shape[1]

    def throughput(self) -> float:
        """FLOP per second in a short trial."""
        once = self.seconds(2) / 2.0
        calls = max(1, round(SECONDS_PER_TRIAL / once))
        return calls * self.flop / self.seconds(calls)


def gemm(x: NDArray[np.floating], y: NDArray[np.floating], *, dtype: str) -> dict[str, Any]:
    """Time of the products of one MMD², their operands in the cache, by the fastest library and tile.

    Half of xx, half of yy and all of xy are (n + m)²·d FLOP: 2·n²·2d for n = m, and as many are timed in one go: the
    luckiest of many short trials is a speed that no work of that length keeps up. The trials choose, at the first call.
    """
    fastest = _fastest(x, y, dtype)
    flop = float(len(x) + len(y)) ** 2 * x.shape[1]
    calls = math.ceil(flop / fastest.flop)
    seconds = fastest.seconds(calls) * flop / (calls * fastest.flop)
    rows, columns = fastest.out.shape
    return {"value": seconds, "gflops": flop / seconds / 1e9, "by": f"{fastest.library}, tiles of {rows} × {columns}"}


_FOUND: dict[str, Trial] = {}


def _fastest(x: NDArray[np.floating], y: NDArray[np.floating], dtype: str) -> Trial:
    """The library and tile of the best trial; tried once per process, which serves one pair of inputs."""
    if dtype not in _FOUND:
        kind = getattr(torch, dtype)
        trials = []
        for library, product in _products(kind).items():
            for rows, columns in TILES:
                a, b = torch.from_numpy(x[:rows]).to(kind), torch.from_numpy(y[:columns]).to(kind).T
                trials.append(Trial(library, product, a, b, torch.empty(len(a), b.shape[1], dtype=kind)))
        _FOUND[dtype] = max(trials, key=Trial.throughput)
    return _FOUND[dtype]


def _products(kind: torch.dtype) -> dict[str, Product]:
    """The libraries at hand: torch's own choice, numpy's BLAS, and oneDNN, which torch takes for float32 only if told.

    Where there are no bf16 matrix units, oneDNN computes in float32 although bf16 is allowed.
    """
    products: dict[str, Product] = {"torch.mm": _torch_mm}
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
