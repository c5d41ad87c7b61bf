"""Squared distances and products of rows, one tile at a time, on the fastest units that keep the precision asked for.

Knows processors; nothing of kernels. Legend: I, J rows of one tile, K channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from vfmalign.mmd.precision import PrecisionName
from vfmalign.mmd.rows import Rows

_FLOAT32_ERROR = 1e-4  # of products of 256 numbers around 1: float32 errs by 1e-5, bfloat16 by 1e-1


def squared_distances(x: Rows, y: Rows, rows: slice, columns: slice, out_IJ: Tensor, *, scale: float = 1.0) -> Tensor:
    """s·‖x_i − y_j‖² = s·‖x_i‖² + s·‖y_j‖² − 2s·x_i·y_j into `out_IJ`; rounding may carry a small one past 0.

    Norms come after the product: one that adds to what is there is slower than the walk through the tile it saves.
    """
    products(x, y, rows, columns, out_IJ)
    torch.add(scale * y.norms_N[columns], out_IJ, alpha=-2.0 * scale, out=out_IJ)
    return out_IJ.add_((scale * x.norms_N[rows])[:, None])


def products(x: Rows, y: Rows, rows: slice, columns: slice, out_IJ: Tensor) -> Tensor:
    """x_i·y_j, written into `out_IJ`."""
    return torch.mm(x.values_NK[rows], y.values_NK[columns].T, out=out_IJ)


def pair_distances(x: Rows, y: Rows, rows: slice) -> Tensor:
    """‖x_i − y_i‖² by difference: the product form loses the small distances of a pair, and there are few of them."""
    return (x[rows].values_NK.double() - y[rows].values_NK.double()).square_().sum(dim=1).to(x.dtype)


@contextmanager
def matrix_units(precision: PrecisionName, device: torch.device) -> Iterator[None]:
    """Lets torch's products run on the fastest units and library that keep their precision; restores its settings.

    On CUDA, rows that were rounded to bfloat16 take TF32 matrix units: their products are exact in float32 (8 + 8
    bits), so the units change the speed and not the value. Float32 rows stay float32, on a CPU by oneDNN where that is
    the faster library (`_prefers_onednn`).
    """
    backend = torch.backends.cuda.matmul if device.type == "cuda" else torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = backend.fp32_precision
    backend.fp32_precision = _setting(precision, device)
    try:
        yield
    finally:
        backend.fp32_precision = before


def _setting(precision: PrecisionName, device: torch.device) -> str:
    """Torch's word for what products may use."""
    if device.type == "cuda":
        return "tf32" if precision == "bfloat16" else "ieee"
    return "bf16" if precision == "float32" and _prefers_onednn() else "ieee"


@cache
def _prefers_onednn() -> bool:
    """Whether float32 products shall go through oneDNN instead of torch's own choice, MKL.

    MKL reaches half of oneDNN's speed on AMD processors with AVX-512 (`make bench` shows both). torch hands products to
    oneDNN only where bf16 is allowed, which without AMX is float32 all the same: that is looked at once, by a product
    that bf16 would get wrong.
    """
    if torch.cpu._is_amx_tile_supported() or "AuthenticAMD" not in _processor():
        return False
    generator = torch.Generator().manual_seed(0)
    x_IK, y_JK = (torch.randn(64, 256, generator=generator) for _ in range(2))
    backend = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = backend.fp32_precision
    backend.fp32_precision = "bf16"
    try:
        found_IJ = (x_IK @ y_JK.T).double()
    finally:
        backend.fp32_precision = before
    return float((found_IJ - x_IK.double() @ y_JK.double().T).abs().max()) < _FLOAT32_ERROR


def _processor() -> str:
    """What the system says of the processor; empty where it says nothing."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
