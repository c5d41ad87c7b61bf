"""Which precision a comparison takes, and how wrong its value can be in that precision. Knows nothing of samples."""

from __future__ import annotations

import math
from typing import Literal

import torch

PrecisionName = Literal["float32", "float64"]
Precision = Literal["auto", "float32", "float64"]

DTYPES: dict[PrecisionName, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}

# One pass of float64 products up to this many floating-point operations is a matter of seconds.
FLOAT64_FLOP = {"cpu": 1e12, "cuda": 1e14}

# A float32 estimate closer to its bound than this keeps less than one digit, and relabelled statistics could tie with
# it by rounding alone: it is computed again in float64.
SAFE_MULTIPLE_OF_BOUND = 10.0


def choose(rows: int, channels: int, device: torch.device) -> PrecisionName:
    """float64 while one pass over the upper half of rows² entries is cheap, float32 beyond."""
    return "float64" if float(rows) ** 2 * channels <= FLOAT64_FLOP.get(device.type, 1e12) else "float32"


def error_bound(slope_times_norm: float, *, channels: int, rows: int, precision: PrecisionName) -> float:
    """Absolute error bound of an estimate of MMD² from n rows of centred features.

    A product of two rows of D channels errs by at most about 2√D·u·‖x‖‖y‖ (Higham and Mary, SIAM J. Sci. Comput. 2019,
    thm 2.4, λ = 2; u is the unit roundoff), norms and rounded features by a few u more, so a squared distance by
    u(2√D + 8)(‖x‖² + ‖y‖²). The kernel's largest slope turns that into an error of k, the exponential adds 4u. The
    absolute weights of MMD² add to 4, times n/(n − 1) for the unbiased forms; float64 sums add 64 units of their own.

    Args:
        slope_times_norm: largest slope of the kernel in ‖x − y‖² times the mean ‖x‖² over both samples.
        channels: D.
        rows: n, of the smaller sample.
        precision: of distances and kernel values.
    """
    unit = torch.finfo(DTYPES[precision]).eps / 2
    of_kernel = unit * (2.0 * math.sqrt(channels) + 8.0) * 2.0 * slope_times_norm + 4.0 * unit
    of_sums = 64.0 * torch.finfo(torch.float64).eps / 2
    return 4.0 * (of_kernel + of_sums) * rows / max(rows - 1, 1)
