"""One layer in one scaling: the pass over its pairs, in float64 where a lower precision would lose digits.

Legend: N and M rows of x and y, C channels as given, K channels kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vfmalign.client.messages.mmd import Estimator
from vfmalign.core.domain.errors import BadTensor
from vfmalign.mmd.comparison import backends, kernel_grid_test
from vfmalign.mmd.comparison.designs import Design, Statistics
from vfmalign.mmd.comparison.options import Backend, ComparisonOptions, ComputeConfig
from vfmalign.mmd.comparison.samples import Features, shape_of
from vfmalign.mmd.comparison.standardisation import Scaled
from vfmalign.mmd.engine import out_of_core, precision, rows
from vfmalign.mmd.engine.kernels import BoundKernel
from vfmalign.mmd.engine.precision import PrecisionName
from vfmalign.mmd.engine.row_streams import FeatureArray, RowStream, to_stream
from vfmalign.mmd.engine.rows import Affine, FloatArray
from vfmalign.mmd.engine.tiles import Layout, Sums
from vfmalign.mmd.statistics import estimators
from vfmalign.mmd.statistics.permutations import Permutations


@dataclass(frozen=True)
class LayerPlan:
    """What all layers of a comparison share."""

    options: ComparisonOptions
    estimator: Estimator
    design: Design
    permutations: Permutations
    engine: ComputeConfig

    @property
    def layout(self) -> Layout:
        """Blocks, groups and permutations as the engine takes them."""
        return Layout(self.design.block_sizes, self.design.group_of, self.permutations.weights_GB)


@dataclass(frozen=True)
class LayerStatistics:
    """Statistics and their error bound at a precision, or why there are none.

    Attributes:
        aggregate: the statistic over a grid of kernels, observed and permuted; None where it was not asked for.
        backend, backend_note: what summed the kernel matrix, and why not another.
    """

    sigma: float
    statistics: Statistics | None
    bound: float
    precision: PrecisionName
    absent_reason: str = ""
    aggregate: Statistics | None = None
    backend: Backend = "torch"
    backend_note: str = ""


def measure(scaled: Scaled, x: Features, y: Features, plan: LayerPlan, layer: str) -> LayerStatistics:
    """One pass over the tiles, and a second in float64 where the first would leave less than a digit.

    Raises:
        BadTensor: features too large to square.
        Cancelled: the engine was told to stop.
    """
    fewest = min(shape_of(x)[0], shape_of(y)[0])
    reason = scaled.absent_reason
    if not reason and fewest < estimators.min_rows(plan.estimator):
        reason = f"an unbiased estimate needs at least 2 rows per sample, got {fewest}"
    if reason:
        return LayerStatistics(scaled.sigma, None, 0.0, "float64", reason)
    chosen = precision.choose(
        plan.options.precision or plan.engine.precision,
        shape_of(x)[0] + shape_of(y)[0],
        shape_of(x)[1],
        plan.engine.device,
    )
    measured = _one_pass(scaled, x, y, plan, chosen)
    if measured is None or (chosen != "float64" and _loses_digits(measured)):
        measured = _one_pass(scaled, x, y, plan, "float64")
    if measured is None:
        raise BadTensor(
            f"features of layer `{layer}` are too large to square", field="layers", remedy="scale them down"
        )
    return measured


def _loses_digits(measured: LayerStatistics) -> bool:
    """Whether the error may reach into the first digit of the estimate."""
    statistics = measured.statistics
    return statistics is None or abs(statistics.observed) < precision.SAFE_MULTIPLE_OF_BOUND * measured.bound


@dataclass(frozen=True)
class _Pass:
    """What one pass over all pairs of rows one_pass.

    Attributes:
        sums: per kernel.
        norm: root mean square of ‖x‖² over the rows as they were compared.
        distinct_share: of rows, repeated ones counted once; 1 where rows were not looked at together.
    """

    sums: Sequence[Sums]
    norm: float
    distinct_share: float
    backend: Backend
    note: str


def _one_pass(
    scaled: Scaled, x: Features, y: Features, plan: LayerPlan, chosen: PrecisionName
) -> LayerStatistics | None:
    """Statistics at one precision; None where squares would overflow in it."""
    design, engine, aggregate = plan.design, plan.engine, plan.options.aggregated
    channel_mask_C = scaled.affine.channel_mask_C
    channels = shape_of(x)[1] if channel_mask_C is None else int(channel_mask_C.sum())
    kernel = scaled.kernel(plan.options.kernel, channels)
    kernels = [kernel, *(kernel_grid_test.kernels(x, y, scaled, engine) if aggregate else ())]
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        one_pass = _over_arrays(kernels, x, y, scaled.affine, plan=plan, chosen=chosen)
    else:
        streams = to_stream(x, "x"), to_stream(y, "y")
        one_pass = _over_streams(kernels, *streams, scaled.affine, plan=plan, chosen=chosen)
    if one_pass is None:
        return None
    statistics = [design.statistics(plan.estimator, sums, plan.permutations) for sums in one_pass.sums]
    rows_of_both = shape_of(x)[0] + shape_of(y)[0]
    enumerated = plan.permutations.enumerated
    largest = kernel_grid_test.largest(statistics[1:], one_pass.sums[1:], rows_of_both, enumerated=enumerated)
    return LayerStatistics(
        scaled.sigma,
        statistics[0],
        _bound(one_pass, kernel, channels, design, chosen),
        chosen,
        aggregate=largest,
        backend=one_pass.backend,
        backend_note=one_pass.note,
    )


def _over_arrays(
    kernels: Sequence[BoundKernel],
    x_NC: FeatureArray,
    y_MC: FeatureArray,
    affine: Affine,
    *,
    plan: LayerPlan,
    chosen: PrecisionName,
) -> _Pass | None:
    """A pass over rows in memory, which are put in the design's order."""
    design, engine = plan.design, plan.engine
    parts = [(x_NC, design.x_order), (y_MC, design.y_order)]
    with np.errstate(over="ignore"):
        pooled = rows.prepare(parts, affine, chosen, engine.device, cache=engine.cache, context=engine.context)
    if not float(pooled.norms_N.max()) <= rows.LARGEST_SQUARED_NORM[chosen]:
        return None
    matrix = design.matrix(pooled)
    summed = backends.accumulate(matrix, kernels, plan.layout, engine, squares=plan.options.aggregated)
    norm = float(pooled.norms_N.double().square().mean().sqrt())
    return _Pass(summed.sums, norm, pooled.effective_count / pooled.count, summed.backend, summed.note)


def _over_streams(
    kernels: Sequence[BoundKernel],
    x: RowStream,
    y: RowStream,
    affine: Affine,
    *,
    plan: LayerPlan,
    chosen: PrecisionName,
) -> _Pass | None:
    """A pass over rows that are read again and again, in the memory allowed."""
    engine = plan.engine
    try:
        streamed = out_of_core.accumulate(
            x,
            y,
            kernels,
            plan.layout,
            memory_bytes=engine.memory_bytes,
            affine=affine,
            precision=chosen,
            device=engine.device,
            tile_shape=engine.tile_shape,
            context=engine.context,
            squares=plan.options.aggregated,
            shard=engine.communicator.shard,
        )
    except out_of_core.SquaredNormOverflow:
        return None
    sums = backends.added_up(streamed.sums, engine.communicator, engine.device)
    note = "rows that do not fit into memory are summed by torch" if backends.wants_triton(engine) else ""
    return _Pass(sums, streamed.norm, 1.0, "torch", note)


def _bound(one_pass: _Pass, kernel: BoundKernel, channels: int, design: Design, chosen: PrecisionName) -> float:
    """The error bound of a pass."""
    fewest, sums = min(design.block_sizes), one_pass.sums[0]
    bound = precision.error_bound(
        slope=kernel.slope,
        norm=one_pass.norm,
        channels=channels,
        rows=fewest * one_pass.distinct_share,
        witness=_witness(sums, design.block_sizes),
        largest=1.0 if kernel.argument == "distance" else float(np.abs(sums.diagonal_N).max()),
        precision=chosen,
        sqrt_slope=kernel.sqrt_slope,
    )
    return bound * fewest / max(fewest - 1, 1)


def _witness(sums: Sums, block_sizes: Sequence[int]) -> float:
    """Root mean square over the rows of Σ_j w_j k(x_i, x_j), w_j = 1/n on x and −1/m on y."""
    if len(block_sizes) == 1:
        values_N: FloatArray = sums.rows_NP[:, 0] / block_sizes[0]
    else:
        values_N = sums.rows_NP[:, 0] / block_sizes[0] - sums.rows_NP[:, 1] / block_sizes[1]
    return float(np.sqrt(np.mean(np.square(values_N))))
