"""Squared distances and products of rows, one tile at a time, on the fastest units that keep the precision asked for.

Knows processors; nothing of kernels. Legend: I, J rows of one tile, K channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vfmalign.mmd.precision import PrecisionName
from vfmalign.mmd.rows import Rows


def squared_distances(x: Rows, y: Rows, rows: slice, columns: slice, out_IJ: Tensor) -> Tensor:
    """‖x_i − y_j‖² = ‖x_i‖² + ‖y_j‖² − 2·x_i·y_j, written into `out_IJ`; rounding may leave it a little below 0."""
    torch.add(x.norms_N[rows, None], y.norms_N[None, columns], out=out_IJ)
    return out_IJ.addmm_(x.values_NK[rows], y.values_NK[columns].T, alpha=-2.0)


def products(x: Rows, y: Rows, rows: slice, columns: slice, out_IJ: Tensor) -> Tensor:
    """x_i·y_j, written into `out_IJ`."""
    return torch.mm(x.values_NK[rows], y.values_NK[columns].T, out=out_IJ)


def pair_distances(x: Rows, y: Rows, rows: slice) -> Tensor:
    """‖x_i − y_i‖² by difference: the product form loses the small distances of a pair, and there are few of them."""
    return (x.values_NK[rows].double() - y.values_NK[rows].double()).square_().sum(dim=1).to(x.norms_N.dtype)


@contextmanager
def matrix_units(precision: PrecisionName, device: torch.device) -> Iterator[None]:
    """Lets products of rows that were rounded to bfloat16 run on bf16 or TF32 matrix units; others keep float32.

    Such products are exact in float32 (8 + 8 bits), so the units change the speed and not the value. On a CPU only AMX
    has such units with a float32 result.
    """
    backend = torch.backends.cuda.matmul if device.type == "cuda" else torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    fast = "tf32" if device.type == "cuda" else "bf16"
    before = backend.fp32_precision
    backend.fp32_precision = fast if precision == "bfloat16" else "ieee"
    try:
        yield
    finally:
        backend.fp32_precision = before


def has_matrix_units(device: torch.device) -> bool:
    """Whether rounding rows to bfloat16 buys speed here: any CUDA device, or a CPU with AMX."""
    return device.type == "cuda" or bool(torch.cpu._is_amx_tile_supported())
