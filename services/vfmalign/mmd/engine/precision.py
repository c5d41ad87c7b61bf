"""Choice of a comparison's precision, and bounds on the rounding error of the result."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from vfmalign.client.messages.mmd import Precision
from vfmalign.mmd.engine.kernels import BoundKernel

PrecisionName = Literal["bfloat16", "float32", "float64"]
"""Floating-point type to which rows are rounded."""
PRECISIONS: tuple[PrecisionName, ...] = get_args(PrecisionName)
"""Precisions from the lowest to the highest."""

UNIT_ROUNDOFF: dict[PrecisionName, float] = dict.fromkeys(PRECISIONS, 2.0 ** (-24)) | {"float64": 2.0**-53}
"""Unit roundoff of sums and kernel values at each precision."""

# A pass of up to this many operations, (n + m)²·d, takes milliseconds in float64; small comparisons use float64.
EXACT_FLOP = {"cpu": 1e9, "cuda": 1e11}

# An estimate below this multiple of its error bound has less than one reliable digit and is repeated in float64.
SAFE_MULTIPLE_OF_BOUND = 10.0

# Kernel values that vary by less than this share have similar rounding errors: a tile's sum of 2¹¹ values is rounded to
# 2⁻¹³ of one value, and distances vary by a few percent.
_VARIATION = 2.0**-10

_SIGMAS = 6.0  # standard deviations of the rounding errors within the bound
# Root mean square of a channel's relative error, rounded up.
_ROW_ROUNDOFF: dict[PrecisionName, float] = {"bfloat16": 2.0**-9}


def choose(least: Precision, rows: int, channels: int, device: torch.device) -> PrecisionName:
    """Chooses the precision of the first pass. The chosen precision is never lower than the requested precision.

    On a CPU, `fast` equals `high`, because only CUDA's matrix units process bfloat16 rows faster.
    """
    flop = float(rows) ** 2 * channels
    if least == "exact" or flop <= EXACT_FLOP.get(device.type, 1e9):
        return "float64"
    return "bfloat16" if least == "fast" and device.type == "cuda" else "float32"


class Magnitudes:
    """Root mean squares of a kernel and of its argument over the rows x_i.

    The values of a kernel of products grow with the norms of the rows. |k(x_i, x_j)|² ≤ k(x_i, x_i)·k(x_j, x_j),
    because the kernel is positive definite. The kernel's slope times ‖x_i‖‖x_j‖ is also a positive definite kernel. For
    both kernels, the root mean square over all pairs of rows is therefore at most the root mean square over the pairs
    (x_i, x_i). The latter needs one number per row.

    Args:
        kernel: kernel to bound.
    """

    def __init__(self, kernel: BoundKernel) -> None:
        self.kernel = kernel
        self._count = 0
        self._squares = torch.zeros(3, dtype=torch.float64)

    def add(self, norms_N: Tensor) -> None:
        """Adds rows with these squared norms."""
        norm_N = norms_N.double().cpu()
        value_N = torch.ones_like(norm_N)
        if self.kernel.argument == "product":
            self.kernel.evaluate(norm_N, value_N)
        slope_N = self.kernel.slope * value_N ** (1.0 - 1.0 / self.kernel.degree)
        self._squares += torch.stack([norm_N, slope_N * norm_N, value_N]).square_().sum(dim=1)
        self._count += len(norm_N)

    @property
    def norm(self) -> float:
        """Root mean square of ‖x_i‖²."""
        return self._root_mean_square(0)

    @property
    def steepness(self) -> float:
        """Root mean square of ‖x_i‖² times the kernel's slope at x_i·x_i (kernels of distances: at 0)."""
        return self._root_mean_square(1)

    @property
    def largest(self) -> float:
        """Root mean square of k(x_i, x_i); 1 for kernels of distances."""
        return self._root_mean_square(2)

    def _root_mean_square(self, index: int) -> float:
        return math.sqrt(float(self._squares[index]) / self._count)


def error_bound(
    magnitudes: Magnitudes,
    *,
    channels: int,
    rows: float,
    witness: float,
    entries: float,
    precision: PrecisionName,
) -> float:
    """Returns a bound on the absolute error of an estimate of MMD²: six standard deviations of its rounding errors.

    The bound is the sum of the errors below, where u is the unit roundoff:

    - Products. The errors of products are assumed to be independent with mean 0 (Higham and Mary, SIAM J. Sci. Comput.
      2019). The error of a product of two rows of D channels is about u·√D·‖x‖‖y‖. MMD² averages n² products.
    - Norms, and rows rounded to bfloat16. Such an error affects all kernel values of its row in the same way. Its
      weight is the witness function at the row, which is small. For a rounded row, the slope of the witness function
      also has an effect. This slope may be as large as that of one kernel even where the witness function is 0.
    - Sums of a row over a tile. The error is about u times the sum (0.8u measured), however many entries the sum has.
      These errors therefore average out only over n rows.
    - Errors that repeat in all rows and therefore do not average out. They occur if kernel values repeat, because the
      kernel is much wider than the distances (MMD² adds four means of the kernel) or the rows form separate clusters
      (the witness function is large).

    `docs/validation.md` compares measured errors with this bound.

    Args:
        magnitudes: magnitudes of the rows of both samples.
        channels: number of channels D.
        rows: number of rows n of the smaller sample, with repeated rows counted once (`Rows.effective_count`).
        witness: root mean square of the witness function Σ_j w_j k(x_i, x_j) over the rows x_i.
        entries: mean absolute value of the entries of the summed matrix.
        precision: precision to which the rows are rounded.
    """
    unit = UNIT_ROUNDOFF[precision]
    steepness, largest = magnitudes.steepness, magnitudes.largest
    witness_share = witness / largest if largest > 0.0 else 0.0
    from_products = 2.0 * (steepness * math.sqrt(channels) + largest) * unit / rows
    from_norms = 2.0 * (steepness + largest) * unit * witness_share / math.sqrt(rows)
    row_roundoff = _ROW_ROUNDOFF.get(precision, 0.0)
    displacement = (
        2.0 * math.sqrt(steepness * largest) * row_roundoff / math.sqrt(rows) + 4.0 * steepness * row_roundoff**2
    )
    from_rows = displacement * (witness_share + 1.0 / rows)
    # For kernels without a slope at 0: rounding moves equal rows √(2u√D)·‖x‖ apart (measured). Any row may be repeated.
    apart = math.sqrt(2.0 * unit * (math.sqrt(channels) + 4.0) * magnitudes.norm)
    from_equal_rows = 2.0 * magnitudes.kernel.sqrt_slope * apart / rows
    from_tiles = 2.0 * unit * entries / math.sqrt(rows)
    wide = largest * _VARIATION >= steepness
    repeated = 2.0 * witness + 4.0 * largest * (1.0 if wide else largest * _VARIATION / steepness)
    from_sums = unit * repeated + 64.0 * UNIT_ROUNDOFF["float64"] * largest
    return _SIGMAS * (from_products + from_norms + from_rows + from_tiles) + from_equal_rows + from_sums
