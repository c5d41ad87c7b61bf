"""Squared distances and products of rows, one tile at a time.

Products run on the fastest hardware units that preserve the precision.

Legend: I rows and J columns of one tile, K channels.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.engine.precision import PrecisionName
from vfmalign.mmd.engine.rows import Rows

MAX_FLOP_UNCHECKED = 2**33
"""Maximum number of operations between two checks of a context, which take less than 0.5 s on a slow core."""
_FLOAT32_ERROR = 1e-3  # limit for products of 512 numbers around 1: float32 errs by 1e-4, bfloat16 by 5e-1
_measuring = threading.Lock()


def squared_distances(
    x: Rows,
    y: Rows,
    rows: slice,
    columns: slice,
    out_IJ: Tensor,
    *,
    scale: float = 1.0,
    context: WorkContext = UNLIMITED,
) -> Tensor:
    """Writes s·‖x_i − y_j‖² = s·‖x_i‖² + s·‖y_j‖² − 2s·x_i·y_j into `out_IJ`.

    Small values may become negative through rounding. The norms are added after the product. `addmm` would save one
    pass over the tile, but it is slower.
    """
    products(x, y, rows, columns, out_IJ, context=context)
    torch.add(scale * y.norms_N[columns], out_IJ, alpha=-2.0 * scale, out=out_IJ)
    return out_IJ.add_((scale * x.norms_N[rows])[:, None])


def products(
    x: Rows, y: Rows, rows: slice, columns: slice, out_IJ: Tensor, *, context: WorkContext = UNLIMITED
) -> Tensor:
    """Writes x_i·y_j into `out_IJ`."""
    return multiply(x.values_NK[rows], y.values_NK[columns].T, context, out_IJ)


def multiply(a_IK: Tensor, b_KJ: Tensor, context: WorkContext, out_IJ: Tensor | None = None) -> Tensor:
    """Returns a matrix product, written to `out_IJ` if `out_IJ` is not None.

    Checks `context` before each block of rows.

    The block size does not affect the order in which the K terms of an element are added. A GPU computes all rows as
    one block.
    """
    if out_IJ is None:
        out_IJ = torch.empty(len(a_IK), b_KJ.shape[1], dtype=a_IK.dtype, device=a_IK.device)
    step = max(1, MAX_FLOP_UNCHECKED // (2 * max(1, b_KJ.numel()))) if a_IK.device.type == "cpu" else max(1, len(a_IK))
    for start in range(0, len(a_IK), step):
        context.checkpoint()
        torch.mm(a_IK[start : start + step], b_KJ, out=out_IJ[start : start + step])
    return out_IJ


def pair_distances(x: Rows, y: Rows, rows: slice) -> Tensor:
    """Computes ‖x_i − y_i‖² from differences, because products would lose small distances to cancellation."""
    return (x[rows].values_NK.double() - y[rows].values_NK.double()).square_().sum(dim=1).to(x.dtype)


@contextmanager
def matrix_units(precision: PrecisionName, device: torch.device) -> Iterator[None]:
    """Selects the fastest units and library that preserve the precision of torch's products, until the context ends.

    Float64 products do not depend on these settings, so float64 comparisons do not change them. torch's settings apply
    to the whole process, and a change could affect another comparison that runs at the same time.

    On CUDA, rows rounded to bfloat16 are multiplied on TF32 matrix units. The product of two bfloat16 numbers is exact
    in float32 (8 + 8 bits), so these units change only the speed. Float32 rows are not rounded. On a CPU, oneDNN
    multiplies float32 rows if it is faster than torch's default library (`_onednn_is_faster`).
    """
    if precision == "float64":
        yield
        return
    backend = torch.backends.cuda.matmul if device.type == "cuda" else torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    with _fp32_precision(backend, _setting(precision, device)):
        yield


class _ProductBackend(Protocol):
    """Type of torch's backends with a configurable precision of float32 products, which torch's stubs lack."""

    fp32_precision: str


@contextmanager
def _fp32_precision(backend: _ProductBackend, setting: str) -> Iterator[None]:
    """Sets the precision of float32 products in one of torch's backends. Restores the old value at exit."""
    previous = backend.fp32_precision
    backend.fp32_precision = setting
    try:
        yield
    finally:
        backend.fp32_precision = previous


def _setting(precision: PrecisionName, device: torch.device) -> str:
    """Returns torch's name for the precision that products may use."""
    if device.type == "cuda":
        return "tf32" if precision == "bfloat16" else "ieee"
    return "bf16" if precision == "float32" and _prefers_onednn() else "ieee"


def warm_up(device: torch.device) -> None:
    """Measures the speed of the CPU libraries (about 0.1 s), so that the first large comparison does not wait."""
    _setting("float32", device)


def _prefers_onednn() -> bool:
    """Returns whether oneDNN computes float32 products, instead of torch's default library."""
    # `cache` alone would allow two threads to measure at the same time. All float32 products wait here until the
    # measurement ends: torch's setting is global to the process and may round them to bfloat16 in the meantime.
    with _measuring:
        return _onednn_is_faster()


@cache
def _onednn_is_faster() -> bool:
    """Measures, once per process, whether oneDNN computes float32 products faster than torch's default, MKL.

    The faster library depends on the processor: on some processors, MKL reaches half of oneDNN's speed. torch calls
    oneDNN only if rounding to bfloat16 is allowed. Processors without bfloat16 units still compute in float32, and the
    measured error shows whether this is so. The errors of both libraries are within the bounds of `precision`, so the
    choice only changes the last digits.
    """
    generator = torch.Generator().manual_seed(0)
    x_IK, y_JK = torch.randn(2, 512, 512, generator=generator)
    seconds = {"ieee": math.inf, "bf16": math.inf}
    out_IJ = torch.empty(512, 512)
    for setting in ("ieee", "bf16") * 8:  # alternate, so that a disturbance affects both; the first rounds warm up
        with _fp32_precision(torch.backends.mkldnn.matmul, setting):  # type: ignore[attr-defined]
            started = time.thread_time()  # CPU time, so that other work on the machine does not matter
            torch.mm(x_IK, y_JK.T, out=out_IJ)
            seconds[setting] = min(seconds[setting], time.thread_time() - started)
    error = float((out_IJ - x_IK.double() @ y_JK.double().T).abs().max())
    return error < _FLOAT32_ERROR and seconds["bf16"] < seconds["ieee"]
