"""Choice of a comparison's precision, and bounds on the rounding error of its result."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch

from vfmalign.client.messages.mmd import Precision

PrecisionName = Literal["bfloat16", "float32", "float64"]
"""Precision that rows are rounded to."""
PRECISIONS: tuple[PrecisionName, ...] = get_args(PrecisionName)
"""From the lowest to the highest."""

UNIT_ROUNDOFF: dict[PrecisionName, float] = dict.fromkeys(PRECISIONS, 2.0 ** (-24)) | {"float64": 2.0**-53}
"""Of sums and kernel values."""

# A pass of (n + m)²·d operations up to this number takes milliseconds in float64, so that small comparisons are exact.
EXACT_FLOP = {"cpu": 1e9, "cuda": 1e11}

# An estimate below this multiple of its error bound has less than one reliable digit, and is repeated in float64.
SAFE_MULTIPLE_OF_BOUND = 10.0

_SIGMAS = 6.0  # standard deviations of the rounding errors within the bound
# Root mean square of a channel's relative error, rounded up.
_ROW_ROUNDOFF: dict[PrecisionName, float] = {"bfloat16": 2.0**-9}


def choose(least: Precision, rows: int, channels: int, device: torch.device) -> PrecisionName:
    """Choose the precision of the first pass; the requested one is a lower bound.

    Rounding rows to bfloat16 is faster on CUDA's matrix units only, so `fast` equals `high` on a CPU.
    """
    flop = float(rows) ** 2 * channels
    if least == "exact" or flop <= EXACT_FLOP.get(device.type, 1e9):
        return "float64"
    return "bfloat16" if least == "fast" and device.type == "cuda" else "float32"


def error_bound(
    *,
    slope: float,
    norm: float,
    channels: int,
    rows: float,
    witness: float,
    largest: float,
    precision: PrecisionName,
    sqrt_slope: float = 0.0,
) -> float:
    """Return a bound on the absolute error of an estimate of MMD²: six standard deviations of its rounding errors.

    Rounding errors of different products are taken as independent with mean 0 (Higham and Mary, SIAM J. Sci. Comput.
    2019): a product of two rows of D channels then errs by about u·√D·‖x‖‖y‖, and MMD² averages n² of them. Errors of a
    row's norm, and of the row itself where it was rounded to bfloat16, affect all kernel values of the row in the same
    way. They are weighted by the witness function at the row, which is small, and for a rounded row also by the slope
    of the witness function, which may be as large as that of one kernel where the function itself is 0. `docs/mmd.md`
    tabulates measured errors beside this bound.

    Args:
        slope: largest slope of the kernel in its argument (`BoundKernel.slope`).
        norm: root mean square of ‖x‖² over the rows.
        channels: D.
        rows: n of the smaller sample, repeated rows counted once (`Rows.effective_count`).
        witness: root mean square over the rows of the witness function, Σ_j w_j k(x_i, x_j).
        largest: largest |k|.
        precision: of the rows.
        sqrt_slope: of a kernel without a slope at 0 (`BoundKernel.sqrt_slope`): rounding moves equal rows
            √(2u√D)·‖x‖ apart (measured), and every row may have equal ones.
    """
    unit = UNIT_ROUNDOFF[precision]
    steepness = slope * norm
    from_products = 2.0 * (steepness * math.sqrt(channels) + largest) * unit / rows
    from_norms = 2.0 * (steepness + largest) * unit * witness / math.sqrt(rows)
    row_roundoff = _ROW_ROUNDOFF.get(precision, 0.0)
    displacement = (
        2.0 * math.sqrt(steepness * largest) * row_roundoff / math.sqrt(rows) + 4.0 * steepness * row_roundoff**2
    )
    from_rows = displacement * (witness + largest / rows)
    from_equal_rows = 2.0 * sqrt_slope * math.sqrt(2.0 * unit * (math.sqrt(channels) + 4.0) * norm) / rows
    from_sums = 64.0 * UNIT_ROUNDOFF["float64"] * largest
    return _SIGMAS * (from_products + (from_norms + from_rows)) + from_equal_rows + from_sums
