"""Estimators that read rows once (linear, block, random Fourier), with results in the form of the exact ones.

The estimators themselves are in `single_pass`.

Legend: N rows, C channels of the input, K channels that remain, I rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from vfmalign.client.messages.common import absent
from vfmalign.client.messages.mmd import Estimator, ShiftResult
from vfmalign.core.domain.errors import BadOption
from vfmalign.mmd.comparison.options import ComparisonOptions, ComputeConfig
from vfmalign.mmd.comparison.standardisation import Scaled
from vfmalign.mmd.engine import precision
from vfmalign.mmd.engine.precision import PrecisionName
from vfmalign.mmd.engine.row_streams import RowStream
from vfmalign.mmd.engine.rows import Affine
from vfmalign.mmd.single_pass.block import AveragedEstimate, block_mmd2, linear_mmd2
from vfmalign.mmd.single_pass.fourier import fourier_mmd2

_NO_GRID = "estimators that read the rows once do not test over a grid of bandwidths"
_NO_MAX_T = "estimators that read the rows once do not adjust p-values over layers"


class AffineRows:
    """A stream of standardised rows in float64: (x − centre)/sd over the channels that remain."""

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


@dataclass(frozen=True)
class _SinglePassRequest:
    """Two standardised streams, their groups, and the options."""

    x: RowStream
    y: RowStream
    scaled: Scaled
    options: ComparisonOptions
    engine: ComputeConfig
    groups_x: Sequence[str]
    groups_y: Sequence[str]


def compute_shift(
    x: RowStream,
    y: RowStream,
    scaled: Scaled,
    options: ComparisonOptions,
    engine: ComputeConfig,
    *,
    groups_x: Sequence[str] = (),
    groups_y: Sequence[str] = (),
) -> ShiftResult:
    """Computes MMD² of one layer by `options.estimator`, one of `ESTIMATORS`.

    Args:
        x: first sample before standardisation, which is applied block by block.
        y: second sample.
        scaled: standardisation and bandwidth.
        options: estimator, kernel and test.
        engine: device, precision and context.
        groups_x: group of each row of x, or of each pair; empty if each row is its own group.
        groups_y: group of each row of y.

    Raises:
        BadOption: an option that the estimator rejects, or a wild bootstrap, which none of them supports.
        BadTensor: features that the estimator rejects.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    if options.method == "wild_bootstrap":
        raise BadOption(
            f"`{options.estimator}` does not support the wild bootstrap",
            field="test.method",
            remedy="leave the method out, or choose an estimator over all pairs",
        )
    if scaled.absent_reason:
        return absent_shift(scaled.absent_reason, scaled.sigma, "float64")
    groups_x = groups_x or (groups_y if options.pairing == "paired" else ())
    streams = AffineRows(x, scaled.affine), AffineRows(y, scaled.affine)
    return ESTIMATORS[options.estimator](_SinglePassRequest(*streams, scaled, options, engine, groups_x, groups_y))


def absent_shift(reason: str, sigma: float, precision: PrecisionName) -> ShiftResult:
    """Returns a result whose values are all absent for one reason."""
    return ShiftResult(
        mmd2=absent(reason),
        sigma=sigma,
        p_value=absent(reason),
        p_value_max_t=absent(reason),
        aggregated_p_value=absent(reason),
        precision=precision,
    )


def _linear(request: _SinglePassRequest) -> ShiftResult:
    """Computes the linear-time estimate, in float64: rows are compared once, so that the precision costs no time."""
    averaged = linear_mmd2(
        request.x,
        request.y,
        request.scaled.kernel(request.options.kernel, request.x.channels),
        paired=request.options.pairing == "paired",
        groups_x=request.groups_x,
        groups_y=request.groups_y,
        level=request.options.interval_level,
        device=request.engine.device,
        context=request.engine.context,
    )
    return _shift_of_mean(request, averaged, witness=0.0, entries=0.0)


def _block(request: _SinglePassRequest) -> ShiftResult:
    """Computes the block estimate, again in float64 if the requested precision leaves less than one reliable digit."""
    chosen = _precision(request, request.options.block_rows or int(min(request.x.rows, request.y.rows) ** 0.5))
    shift = _block_in(request, chosen)
    if chosen != "float64" and abs(shift.mmd2.value or 0.0) < precision.SAFE_MULTIPLE_OF_BOUND * shift.error_bound:
        return _block_in(request, "float64")
    return shift


def _block_in(request: _SinglePassRequest, chosen: PrecisionName) -> ShiftResult:
    kernel = request.scaled.kernel(request.options.kernel, request.x.channels)
    averaged = block_mmd2(
        request.x,
        request.y,
        kernel,
        paired=request.options.pairing == "paired",
        block_rows=request.options.block_rows,
        groups_x=request.groups_x,
        groups_y=request.groups_y,
        level=request.options.interval_level,
        precision=chosen,
        device=request.engine.device,
        context=request.engine.context,
    )
    largest = averaged.magnitudes.largest
    return _shift_of_mean(request, averaged, witness=largest, entries=2.0 * largest)  # h(z, z) = 2 − 2k(x, y) of pairs


def _fourier(request: _SinglePassRequest) -> ShiftResult:
    """Computes the random Fourier estimate; its interval includes the error of the frequencies."""
    estimate = fourier_mmd2(
        request.x,
        request.y,
        paired=request.options.pairing == "paired",
        sigma=request.scaled.sigma,
        kernel=request.options.kernel,
        frequencies=request.options.frequencies,
        seed=request.options.seed,
        permutations=request.options.permutations,
        groups_x=request.groups_x,
        groups_y=request.groups_y,
        level=request.options.interval_level,
        precision=_precision(request, 1),
        device=request.engine.device,
        context=request.engine.context,
        communicator=request.engine.communicator,
        memory_bytes=request.engine.memory_bytes,
    )
    return ShiftResult(
        mmd2=estimate.mmd2,
        sigma=request.scaled.sigma,
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


ESTIMATORS: dict[Estimator | None, Callable[[_SinglePassRequest], ShiftResult]] = {
    "linear": _linear,
    "block": _block,
    "random_fourier": _fourier,
}


def _precision(request: _SinglePassRequest, rows_each: int) -> PrecisionName:
    """Chooses float64 on request or if there are few products, else float32."""
    return precision.choose(
        "exact" if (request.options.precision or request.engine.precision) == "exact" else "high",
        int(((request.x.rows + request.y.rows) * rows_each) ** 0.5),
        request.x.channels,
        request.engine.device,
    )


def _shift_of_mean(
    request: _SinglePassRequest, averaged: AveragedEstimate, *, witness: float, entries: float
) -> ShiftResult:
    """Returns the mean of independent estimates as a result; its test needs no permutations."""
    bound = precision.error_bound(
        averaged.magnitudes,
        channels=request.x.channels,
        rows=averaged.error_rows,
        witness=witness,
        entries=entries,
        precision=averaged.precision,
    )
    return ShiftResult(
        mmd2=averaged.mmd2,
        sigma=request.scaled.sigma,
        p_value=averaged.p_value,
        p_value_max_t=absent(_NO_MAX_T),
        permutations=0,
        enumerated=False,
        error_bound=bound,
        below_error_bound=abs(averaged.mmd2.value or 0.0) <= bound,
        precision=averaged.precision,
        aggregated_p_value=absent(_NO_GRID),
    )
