"""Which precision a comparison takes, and how wrong its value can be in that precision. Knows nothing of samples."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch

PrecisionName = Literal["bfloat16", "bfloat16x2", "float32", "float64"]
"""How rows are kept: as one bfloat16 number per channel, as the sum of two, or as they are in that type."""
PRECISIONS: tuple[PrecisionName, ...] = get_args(PrecisionName)
"""From the lowest to the highest."""
LeastPrecision = Literal["fast", "high", "exact"]

UNIT_ROUNDOFF: dict[PrecisionName, float] = dict.fromkeys(PRECISIONS, 2.0 ** (-24)) | {"float64": 2.0**-53}
"""Of sums and kernel values."""

# One pass over (n + m)²·d of this many operations takes milliseconds in float64, so that small comparisons are exact.
EXACT_FLOP = {"cpu": 1e9, "cuda": 1e11}

# From here on `high` takes two bfloat16 parts on a CPU's matrix units. Their errors fall with the rows, and of fewer of
# them float32 is computed in a fraction of a second.
TWO_PARTS_FLOP = 1e11

# An estimate closer to its bound than this keeps less than one digit: it is computed again in float64.
SAFE_MULTIPLE_OF_BOUND = 10.0

_SIGMAS = 6.0
# Root mean squares, rounded up: relative errors of a channel, and the product of the smaller parts of equal rows, which
# `bfloat16x2` leaves out, relative to ‖x‖².
_ROW_ROUNDOFF: dict[PrecisionName, float] = {"bfloat16": 2.0**-9, "bfloat16x2": 2.0**-18}
_LEFT_OUT: dict[PrecisionName, float] = {"bfloat16x2": 2.0**-18}


def choose(
    least: LeastPrecision, rows: int, channels: int, device: torch.device, *, matrix_units: bool
) -> PrecisionName:
    """The precision of the first pass: the one asked for is a floor.

    `fast` without matrix units would round the rows and gain nothing, so it becomes `high`. With those of a CPU large
    comparisons take two bfloat16 parts, whose three products are faster than one in float32; on CUDA the backend does.
    """
    flop = float(rows) ** 2 * channels
    if least == "exact" or flop <= EXACT_FLOP.get(device.type, 1e9):
        return "float64"
    if least == "fast" and matrix_units:
        return "bfloat16"
    return "bfloat16x2" if matrix_units and device.type == "cpu" and flop >= TWO_PARTS_FLOP else "float32"


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
    a row's norm, and of the row itself where it was rounded to bfloat16 parts, hit all kernel values of the row alike
    and are weighed by the witness function there, which is small; a rounded row also by its slope, which may be that of
    one kernel where the function itself is 0. What `bfloat16x2` leaves out of a product is no random error where rows
    are equal. `docs/mmd.md` tabulates measured errors beside this bound.

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
    left_out = _LEFT_OUT.get(precision, 0.0)
    of_equal_rows = 2.0 * steepness * left_out / rows
    of_equal_rows += 2.0 * root * math.sqrt((2.0 * unit * (math.sqrt(channels) + 4.0) + 2.0 * left_out) * norm) / rows
    of_sums = 64.0 * UNIT_ROUNDOFF["float64"] * largest
    return _SIGMAS * (of_products + of_rows) + of_equal_rows + of_sums
