"""Which precision a comparison takes, and how wrong its value can be in that precision. Knows nothing of samples."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch

PrecisionName = Literal["bfloat16", "float32", "float64"]
"""What rows are rounded to."""
PRECISIONS: tuple[PrecisionName, ...] = get_args(PrecisionName)
"""From the lowest to the highest."""
LeastPrecision = Literal["fast", "high", "exact"]

UNIT_ROUNDOFF: dict[PrecisionName, float] = dict.fromkeys(PRECISIONS, 2.0 ** (-24)) | {"float64": 2.0**-53}
"""Of sums and kernel values."""

# One pass over (n + m)²·d of this many operations takes milliseconds in float64, so that small comparisons are exact.
EXACT_FLOP = {"cpu": 1e9, "cuda": 1e11}

# An estimate closer to its bound than this keeps less than one digit: it is computed again in float64.
SAFE_MULTIPLE_OF_BOUND = 10.0

_SIGMAS = 6.0
# Root mean square of a channel's relative error, rounded up.
_ROW_ROUNDOFF: dict[PrecisionName, float] = {"bfloat16": 2.0**-9}


def choose(least: LeastPrecision, rows: int, channels: int, device: torch.device) -> PrecisionName:
    """Choose the precision of the first pass; the one asked for is a floor.

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
    root: float = 0.0,
) -> float:
    """Bound on the absolute error of an estimate of MMD², six standard deviations of its rounding errors.

    Rounding errors of different products are taken as independent with mean 0 (Higham and Mary, SIAM J. Sci. Comput.
    2019): a product of two rows of D channels then errs by about u·√D·‖x‖‖y‖, and MMD² averages n² of them. Errors of
    a row's norm, and of the row itself where it was rounded to bfloat16, hit all kernel values of the row alike and are
    weighed by the witness function there, which is small; a rounded row also by its slope, which may be that of one
    kernel where the function itself is 0. `docs/mmd.md` tabulates measured errors beside this bound.

    Args:
        slope: largest slope of the kernel in its argument.
        norm: root mean square of ‖x‖² over the rows.
        channels: D.
        rows: n of the smaller sample, repeated rows counted once (`Rows.distinct`).
        witness: root mean square over the rows of the witness function, Σ_j w_j k(x_i, x_j).
        largest: largest |k|.
        precision: of the rows.
        root: of a kernel without a slope at 0 (`Kernel.root`): equal rows are √(2u√D)·‖x‖ apart by rounding (measured),
            and every row may have some.
    """
    unit = UNIT_ROUNDOFF[precision]
    steepness = slope * norm
    of_products = 2.0 * (steepness * math.sqrt(channels) + largest) * unit / rows
    of_rows = 2.0 * (steepness + largest) * unit * witness / math.sqrt(rows)
    rounded = _ROW_ROUNDOFF.get(precision, 0.0)
    moved = 2.0 * math.sqrt(steepness * largest) * rounded / math.sqrt(rows) + 4.0 * steepness * rounded**2
    of_rows += moved * (witness + largest / rows)
    of_equal_rows = 2.0 * root * math.sqrt(2.0 * unit * (math.sqrt(channels) + 4.0) * norm) / rows
    of_sums = 64.0 * UNIT_ROUNDOFF["float64"] * largest
    return _SIGMAS * (of_products + of_rows) + of_equal_rows + of_sums
