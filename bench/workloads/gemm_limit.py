"""The bare matrix product, a lower bound on the time of any MMD that forms its distances by GEMM."""

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
class GemmTrial:
    """One library at one tile size, with its operands."""

    library: str
    product: Product
    a: Tensor
    b: Tensor
    out: Tensor

    def seconds(self, calls: int) -> float:
        """Returns the duration of repeated products."""
        start = time.perf_counter()
        for _ in range(calls):
            self.product(self.a, self.b, self.out)
        return time.perf_counter() - start

    @property
    def flop(self) -> float:
        """Operations of one product."""
        return 2.0 * self.out.numel() * self.a.shape[1]

    def throughput(self) -> float:
        """Returns the FLOP per second of a short trial."""
        once = self.seconds(2) / 2.0
        calls = max(1, round(SECONDS_PER_TRIAL / once))
        return calls * self.flop / self.seconds(calls)


def gemm(x: NDArray[np.floating], y: NDArray[np.floating], *, dtype: str) -> dict[str, Any]:
    """Times the products of one MMD² by the fastest library and tile size, with operands in the cache.

    Half of xx, half of yy and all of xy are (n + m)²·d FLOP, 2·n²·2d for n = m. As many are timed in one go, because
    the fastest of many short trials overstates the speed of work of that length. The trials, at the first call, only
    choose the library and the tile size.

    Returns:
        `value`, the seconds of the whole work; `gflops`; and `by`, the library and tile size.
    """
    fastest = _fastest(x, y, dtype)
    flop = float(len(x) + len(y)) ** 2 * x.shape[1]
    calls = math.ceil(flop / fastest.flop)
    seconds = fastest.seconds(calls) * flop / (calls * fastest.flop)
    rows, columns = fastest.out.shape
    return {"value": seconds, "gflops": flop / seconds / 1e9, "by": f"{fastest.library}, tiles of {rows} × {columns}"}


_FASTEST: dict[str, GemmTrial] = {}


def _fastest(x: NDArray[np.floating], y: NDArray[np.floating], dtype: str) -> GemmTrial:
    """Returns the fastest trial; they run once per process, which has one pair of inputs."""
    if dtype not in _FASTEST:
        kind = getattr(torch, dtype)
        trials = []
        for library, product in _products(kind).items():
            for rows, columns in TILES:
                a, b = torch.from_numpy(x[:rows]).to(kind), torch.from_numpy(y[:columns]).to(kind).T
                trials.append(GemmTrial(library, product, a, b, torch.empty(len(a), b.shape[1], dtype=kind)))
        _FASTEST[dtype] = max(trials, key=GemmTrial.throughput)
    return _FASTEST[dtype]


def _products(kind: torch.dtype) -> dict[str, Product]:
    """Returns the libraries: torch's default, numpy's BLAS, and oneDNN, which torch uses for float32 on request only.

    The request allows oneDNN to round to bf16; on processors without bf16 matrix units it computes in float32 anyway.
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
