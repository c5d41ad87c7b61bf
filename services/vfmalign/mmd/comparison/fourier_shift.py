"""MMD² by random Fourier features. The result has the same type as that of the exact estimators.

The package `single_pass` contains the estimator, which reads each row once.

Legend: I rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from vfmalign.client.messages.common import absent
from vfmalign.client.messages.mmd import ComputeOptions, ShiftResult
from vfmalign.mmd.comparison.standardisation import Scaled
from vfmalign.mmd.engine import precision
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.precision import PrecisionName
from vfmalign.mmd.engine.row_streams import RowStream
from vfmalign.mmd.engine.rows import Affine
from vfmalign.mmd.single_pass.fourier import fourier_mmd2

_NO_GRID = "`random_fourier` does not test over a grid of bandwidths"
_NO_MAX_T = "`random_fourier` does not adjust p-values over layers"


class AffineRows:
    """Stream of standardised rows in float64: (x − centre)/sd for the channels that are not excluded."""

    def __init__(self, stream: RowStream, affine: Affine) -> None:
        self._stream, self._affine = stream, affine
        self.rows = stream.rows
        self.channels = stream.channels if affine.channel_mask_C is None else int(affine.channel_mask_C.sum())

    def blocks(self, size: int) -> Iterator[Tensor]:
        """See `RowStream`."""
        return (self._apply(block_IC) for block_IC in self._stream.blocks(size))

    def read(self, start: int, stop: int) -> Tensor:
        """See `RowStream`."""
        return self._apply(self._stream.read(start, stop))

    def _apply(self, block_IC: Tensor) -> Tensor:
        return self._affine.apply(block_IC)


def approximate_shift(
    x: RowStream,
    y: RowStream,
    scaled: Scaled,
    options: ComputeOptions,
    engine: ComputeConfig,
    *,
    groups_x: Sequence[str] = (),
    groups_y: Sequence[str] = (),
) -> ShiftResult:
    """Computes MMD² of one layer by random Fourier features. The interval covers the error of the random frequencies.

    Args:
        x: first sample, not yet standardised. This function standardises the sample block by block.
        y: second sample, not yet standardised.
        scaled: standardisation and bandwidth.
        options: kernel, frequencies and test.
        engine: device, precision and context.
        groups_x: group of each row of x or, for paired samples, of each pair; empty if each row is its own group.
        groups_y: group of each row of y.

    Raises:
        BadOption: the estimator does not support an option.
        BadTensor: the estimator does not support such features.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    if scaled.absent_reason:
        return absent_shift(scaled.absent_reason, scaled.sigma, "float64")
    rows_x, rows_y = AffineRows(x, scaled.affine), AffineRows(y, scaled.affine)
    estimate = fourier_mmd2(
        rows_x,
        rows_y,
        options,
        engine,
        sigma=scaled.sigma,
        precision=_choose_precision(rows_x, rows_y, engine),
        groups_x=groups_x or (groups_y if options.pairing == "paired" else ()),
        groups_y=groups_y,
    )
    return ShiftResult(
        mmd2=estimate.mmd2,
        sigma=scaled.sigma,
        p_value=estimate.p_value,
        p_value_max_t=absent(_NO_MAX_T),
        permutations=estimate.permutations.count,
        enumerated=estimate.permutations.enumerated,
        error_bound=estimate.rounding_error,
        below_error_bound=abs(estimate.mmd2.value or 0.0) <= estimate.rounding_error,
        precision=estimate.precision,
        aggregated_p_value=absent(_NO_GRID),
        approximation_error=estimate.approximation_error,
    )


def absent_shift(reason: str, sigma: float, precision: PrecisionName) -> ShiftResult:
    """Returns a result without values. The same reason explains why each value is absent."""
    return ShiftResult(
        mmd2=absent(reason),
        sigma=sigma,
        p_value=absent(reason),
        p_value_max_t=absent(reason),
        aggregated_p_value=absent(reason),
        precision=precision,
    )


def _choose_precision(x: RowStream, y: RowStream, engine: ComputeConfig) -> PrecisionName:
    """Returns float64 if it is requested or the computation is small, otherwise float32."""
    rows = int((x.rows + y.rows) ** 0.5)  # pairs of so many rows are as many products as all rows with one frequency
    return precision.choose("exact" if engine.precision == "exact" else "high", rows, x.channels, engine.device)
