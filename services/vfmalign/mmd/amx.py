"""Products of bfloat16 numbers with a float32 result on a CPU's matrix units (AMX). Knows processors; nothing of rows.

torch multiplies bfloat16 on a CPU too, but rounds the result to bfloat16, or converts float32 at every call at half the
speed. MKL, which its builds for x86 contain and export, has the function that is wanted: `cblas_gemm_bf16bf16f32`
(oneMKL reference, "BLAS-like extensions"). Where it is missing, so are the matrix units.

Legend: I, J rows and columns of one tile, K what a product runs over.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

_ROW_MAJOR, _PLAIN, _TRANSPOSED = 101, 111, 112


def available() -> bool:
    """Whether this CPU has AMX and torch brings the function that uses it."""
    return _function() is not None


def products(x_IK: Tensor, y_JK: Tensor, out_IJ: Tensor, *, add: bool = False) -> Tensor:
    """Writes x yᵀ into `out_IJ`; float32, and the same in float32 where there are no units.

    Args:
        x_IK: bfloat16, numbers of a row next to each other.
        y_JK: bfloat16, numbers of a row or of a column next to each other.
        out_IJ: float32, numbers of a row next to each other.
        add: whether to what is there; it is not read otherwise.
    """
    _check(x_IK, y_JK, out_IJ)
    multiply = _function()
    if multiply is None:
        return out_IJ.addmm_(x_IK.float(), y_JK.float().T, beta=float(add))
    if not (out_IJ.numel() and x_IK.numel()):
        return out_IJ if add else out_IJ.zero_()
    by_row = _dense(y_JK)
    multiply(
        *(_ROW_MAJOR, _PLAIN, _TRANSPOSED if by_row else _PLAIN, *out_IJ.shape, x_IK.shape[1], 1.0),
        *(x_IK.data_ptr(), _step(x_IK), y_JK.data_ptr(), _step(y_JK if by_row else y_JK.T)),
        *(float(add), out_IJ.data_ptr(), _step(out_IJ)),
    )
    return out_IJ


def _check(x_IK: Tensor, y_JK: Tensor, out_IJ: Tensor) -> None:
    """Refuses what would be read or written beside its memory."""
    fits = out_IJ.shape == (x_IK.shape[0], y_JK.shape[0]) and x_IK.shape[1] == y_JK.shape[1]
    dense = _dense(x_IK) and _dense(out_IJ) and (_dense(y_JK) or _dense(y_JK.T))
    types = (x_IK.dtype, y_JK.dtype, out_IJ.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    if not (fits and dense and types):
        raise ValueError(f"cannot multiply {_told(x_IK)} by {_told(y_JK)} into {_told(out_IJ)}")


def _dense(part: Tensor) -> bool:
    """Whether numbers of a row are next to each other, and rows do not overlap."""
    return (part.stride(1) == 1 or part.shape[1] == 1) and (part.stride(0) >= part.shape[1] or part.shape[0] == 1)


def _step(part: Tensor) -> int:
    """From one row to the next."""
    return max(part.stride(0), part.shape[1])


def _told(part: Tensor) -> str:
    return f"{part.dtype}{tuple(part.shape)} with strides {part.stride()}"


@cache
def _function() -> Callable[..., None] | None:
    """What was found, once."""
    return _find()


def _find() -> Callable[..., None] | None:
    """MKL's function; None without AMX, or where torch does not bring it."""
    if not torch.cpu._is_amx_tile_supported():
        return None
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        found = library.cblas_gemm_bf16bf16f32
    except (OSError, AttributeError):
        return None
    integer, number, memory = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
    found.argtypes = [*[integer] * 6, number, memory, integer, memory, integer, number, memory, integer]
    found.restype = None
    return found
