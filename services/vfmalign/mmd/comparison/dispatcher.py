"""The estimators that read rows once — linear, block, fourier — answering as the exact ones do.

Knows options and results; the estimators themselves are in `blocks` and `fourier`.

Legend: N rows, C channels as given, K channels kept, I rows of a block.
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

_NO_GRID = "no test over a grid of bandwidths is made by estimators that read the rows once"
_NO_MAX_T = "estimators that read the rows once do not adjust over layers"


class AffineRows:
    """A stream's rows as (x − centre)/sd over the channels that are kept, in float64."""

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
class _Question:
    """Two streams in one scaling, and the options."""

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
    """MMD² in one scaling by `options.estimator`, one of `ESTIMATORS`.

    Args:
        x: first sample as it is; `scaled` is applied to its rows as they come.
        y: second sample.
        scaled: centre, scale and bandwidth.
        options: what to compare and how.
        engine: where to compute.
        groups_x: group of each row of x, or of each pair; empty where each row is a group of its own.
        groups_y: the same of y.

    Raises:
        BadOption, BadTensor: as the estimator; a wild bootstrap, which none of these makes.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    if options.method == "wild_bootstrap":
        raise BadOption(
            f"`{options.estimator}` has a test of its own and makes no wild bootstrap",
            field="test.method",
            remedy="leave the method out, or use an estimator over all pairs",
        )
    if scaled.absent_reason:
        return absent_shift(scaled.absent_reason, scaled.sigma, "float64")
    groups_x = groups_x or (groups_y if options.pairing == "paired" else ())
    moved = AffineRows(x, scaled.affine), AffineRows(y, scaled.affine)
    question = _Question(*moved, scaled, options, engine, groups_x, groups_y)
    return ESTIMATORS[options.estimator](question)


def absent_shift(reason: str, sigma: float, precision: PrecisionName) -> ShiftResult:
    """A result without any estimate, for the same reason."""
    return ShiftResult(
        mmd2=absent(reason),
        sigma=sigma,
        p_value=absent(reason),
        p_value_max_t=absent(reason),
        aggregated_p_value=absent(reason),
        precision=precision,
    )


def _linear(question: _Question) -> ShiftResult:
    """In float64, which costs nothing where rows are read once and compared once."""
    averaged = linear_mmd2(
        question.x,
        question.y,
        question.scaled.kernel(question.options.kernel, question.x.channels),
        paired=question.options.pairing == "paired",
        groups_x=question.groups_x,
        groups_y=question.groups_y,
        level=question.options.interval_level,
        device=question.engine.device,
        context=question.engine.context,
    )
    return _shift_of_mean(question, averaged, 64.0 * precision.UNIT_ROUNDOFF["float64"])


def _block(question: _Question) -> ShiftResult:
    """In the precision asked for, and in float64 where that would leave less than a digit."""
    chosen = _precision(question, question.options.block_rows or int(min(question.x.rows, question.y.rows) ** 0.5))
    shift = _block_in(question, chosen)
    if chosen != "float64" and abs(shift.mmd2.value or 0.0) < precision.SAFE_MULTIPLE_OF_BOUND * shift.error_bound:
        return _block_in(question, "float64")
    return shift


def _block_in(question: _Question, chosen: PrecisionName) -> ShiftResult:
    kernel = question.scaled.kernel(question.options.kernel, question.x.channels)
    averaged = block_mmd2(
        question.x,
        question.y,
        kernel,
        paired=question.options.pairing == "paired",
        block_rows=question.options.block_rows,
        groups_x=question.groups_x,
        groups_y=question.groups_y,
        level=question.options.interval_level,
        precision=chosen,
        device=question.engine.device,
        context=question.engine.context,
    )
    bound = precision.error_bound(
        slope=kernel.slope,
        norm=averaged.norm,
        channels=question.x.channels,
        rows=averaged.block_rows,
        witness=1.0,
        largest=1.0 if kernel.argument == "distance" else max(1.0, averaged.norm),
        precision=chosen,
    )
    return _shift_of_mean(question, averaged, bound)


def _fourier(question: _Question) -> ShiftResult:
    """With the frequencies' error beside the interval, which counts it."""
    estimate = fourier_mmd2(
        question.x,
        question.y,
        paired=question.options.pairing == "paired",
        sigma=question.scaled.sigma,
        kernel=question.options.kernel,
        frequencies=question.options.frequencies,
        seed=question.options.seed,
        permutations=question.options.permutations,
        groups_x=question.groups_x,
        groups_y=question.groups_y,
        level=question.options.interval_level,
        precision=_precision(question, 1),
        device=question.engine.device,
        context=question.engine.context,
        communicator=question.engine.communicator,
        memory_bytes=question.engine.memory_bytes,
    )
    return ShiftResult(
        mmd2=estimate.mmd2,
        sigma=question.scaled.sigma,
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


ESTIMATORS: dict[Estimator | None, Callable[[_Question], ShiftResult]] = {
    "linear": _linear,
    "block": _block,
    "random_fourier": _fourier,
}


def _precision(question: _Question, rows_each: int) -> PrecisionName:
    """float64 where asked for or where so few products cost nothing, float32 otherwise."""
    return precision.choose(
        "exact" if (question.options.precision or question.engine.precision) == "exact" else "high",
        int(((question.x.rows + question.y.rows) * rows_each) ** 0.5),
        question.x.channels,
        question.engine.device,
    )


def _shift_of_mean(question: _Question, averaged: AveragedEstimate, bound: float) -> ShiftResult:
    """The mean of independent estimates as a result; its test needs no permutations."""
    return ShiftResult(
        mmd2=averaged.mmd2,
        sigma=question.scaled.sigma,
        p_value=averaged.p_value,
        p_value_max_t=absent(_NO_MAX_T),
        permutations=0,
        enumerated=False,
        error_bound=bound,
        below_error_bound=abs(averaged.mmd2.value or 0.0) <= bound,
        precision=averaged.precision,
        aggregated_p_value=absent(_NO_GRID),
    )
