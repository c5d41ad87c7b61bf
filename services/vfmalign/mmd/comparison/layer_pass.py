"""MMD² of one raw or standardised layer.

One pass visits all pairs of rows. A second pass in float64 follows if the first pass loses too many digits.

Legend: N rows of x, M rows of y, C channels of the input, K channels that remain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vfmalign.client.messages.mmd import ComputeOptions, Estimator
from vfmalign.core.domain.errors import BadTensor
from vfmalign.mmd.comparison import backends, kernel_aggregation
from vfmalign.mmd.comparison.designs import Design, Statistics
from vfmalign.mmd.comparison.standardisation import Scaled
from vfmalign.mmd.engine import precision, rows
from vfmalign.mmd.engine.compute_config import Backend, ComputeConfig
from vfmalign.mmd.engine.kernels import BoundKernel
from vfmalign.mmd.engine.precision import Magnitudes, PrecisionName
from vfmalign.mmd.engine.row_streams import FeatureArray
from vfmalign.mmd.engine.rows import Affine, FloatArray
from vfmalign.mmd.engine.tiles import Layout, Sums
from vfmalign.mmd.statistics import estimators
from vfmalign.mmd.statistics.permutations import Permutations


@dataclass(frozen=True)
class LayerPlan:
    """Design, permutations and settings that all layers of a comparison share."""

    options: ComputeOptions
    estimator: Estimator
    design: Design
    permutations: Permutations
    engine: ComputeConfig

    @property
    def layout(self) -> Layout:
        """Row blocks, groups and permutations, in the form that the engine expects."""
        return Layout(self.design.block_sizes, self.design.group_of, self.permutations.weights_GB)


@dataclass(frozen=True)
class LayerStatistics:
    """Statistics of one layer with their precision and error bound, or the reason why there are no statistics.

    Attributes:
        aggregate: observed and permuted values of the statistic over a grid of kernels; None if not requested.
        backend, backend_note: the backend that summed the kernel matrix, and why the requested backend was not used.
    """

    sigma: float
    statistics: Statistics | None
    bound: float
    precision: PrecisionName
    absent_reason: str = ""
    aggregate: Statistics | None = None
    backend: Backend = "torch"
    backend_note: str = ""


def compute_layer(
    scaled: Scaled, x_NC: FeatureArray, y_MC: FeatureArray, plan: LayerPlan, layer: str
) -> LayerStatistics:
    """Computes the statistics of one layer. Repeats the pass in float64 if no digit of the estimate is reliable.

    Raises:
        BadTensor: the features are too large: their squares overflow, or the features are too large relative to σ.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    fewest = min(len(x_NC), len(y_MC))
    reason = scaled.absent_reason
    if not reason and fewest < estimators.min_rows(plan.estimator):
        reason = f"an unbiased estimate needs at least 2 rows per sample, got {fewest}"
    if reason:
        return LayerStatistics(scaled.sigma, None, 0.0, "float64", reason)
    chosen = precision.choose(plan.engine.precision, len(x_NC) + len(y_MC), x_NC.shape[1], plan.engine.device)
    layer_statistics = _compute_statistics(scaled, x_NC, y_MC, plan, chosen)
    if layer_statistics is None or (chosen != "float64" and _loses_digits(layer_statistics)):
        layer_statistics = _compute_statistics(scaled, x_NC, y_MC, plan, "float64")
    if layer_statistics is None:
        raise BadTensor(
            f"features of layer `{layer}` are too large for the kernel, in absolute terms or relative to σ",
            field="layers",
            remedy="scale the features down, or choose a larger σ",
        )
    return layer_statistics


def _loses_digits(layer_statistics: LayerStatistics) -> bool:
    """Whether the error bound is so large that the first digit of the estimate may be wrong."""
    statistics = layer_statistics.statistics
    return statistics is None or abs(statistics.observed) < precision.SAFE_MULTIPLE_OF_BOUND * layer_statistics.bound


@dataclass(frozen=True)
class _PairSums:
    """Result of one pass over all pairs of rows.

    Attributes:
        sums: sums of each kernel.
        magnitudes: magnitudes of the first kernel's values for the transformed rows.
        distinct_share: effective number of distinct rows as a share of all rows.
    """

    sums: Sequence[Sums]
    magnitudes: Magnitudes
    distinct_share: float
    backend: Backend
    note: str


def _compute_statistics(
    scaled: Scaled, x_NC: FeatureArray, y_MC: FeatureArray, plan: LayerPlan, chosen: PrecisionName
) -> LayerStatistics | None:
    """Computes the statistics at one precision; None if squares or kernel values overflow."""
    design, engine, aggregate = plan.design, plan.engine, plan.options.test.aggregated
    channel_mask_C = scaled.affine.channel_mask_C
    channels = x_NC.shape[1] if channel_mask_C is None else int(channel_mask_C.sum())
    kernel = scaled.kernel(plan.options.kernel.family, channels)
    kernels = [kernel, *(kernel_aggregation.make_kernels(x_NC, y_MC, scaled, engine) if aggregate else ())]
    pair_sums = _sum_pairs(kernels, x_NC, y_MC, scaled.affine, plan=plan, chosen=chosen)
    if pair_sums is None or not np.isfinite(bound := _bound(pair_sums, channels, design, chosen)):
        return None
    statistics = [design.statistics(plan.estimator, sums, plan.permutations, engine.context) for sums in pair_sums.sums]
    rows_of_both = len(x_NC) + len(y_MC)
    enumerated = plan.permutations.enumerated
    largest = kernel_aggregation.get_largest_statistic(
        statistics[1:], pair_sums.sums[1:], rows_of_both, enumerated=enumerated
    )
    return LayerStatistics(
        scaled.sigma,
        statistics[0],
        bound,
        chosen,
        aggregate=largest,
        backend=pair_sums.backend,
        backend_note=pair_sums.note,
    )


def _sum_pairs(
    kernels: Sequence[BoundKernel],
    x_NC: FeatureArray,
    y_MC: FeatureArray,
    affine: Affine,
    *,
    plan: LayerPlan,
    chosen: PrecisionName,
) -> _PairSums | None:
    """Runs a pass over all pairs of rows, in the order of the design."""
    design, engine = plan.design, plan.engine
    parts = [(x_NC, design.x_order), (y_MC, design.y_order)]
    with np.errstate(over="ignore"):
        pooled = rows.prepare(parts, affine, chosen, engine.device, cache=engine.cache, context=engine.context)
    if not float(pooled.norms_N.max()) <= rows.LARGEST_SQUARED_NORM[chosen]:
        return None
    matrix = design.matrix(pooled)
    summed = backends.accumulate(matrix, kernels, plan.layout, engine, squares=plan.options.test.aggregated)
    magnitudes = Magnitudes(kernels[0])
    magnitudes.add(pooled.norms_N)
    return _PairSums(summed.sums, magnitudes, pooled.effective_count / pooled.count, summed.backend, summed.note)


def _bound(pair_sums: _PairSums, channels: int, design: Design, chosen: PrecisionName) -> float:
    """Returns the error bound of a pass; infinity or NaN if kernel values overflow."""
    fewest, sums = min(design.block_sizes), pair_sums.sums[0]
    with np.errstate(over="ignore", invalid="ignore"):
        bound = precision.error_bound(
            pair_sums.magnitudes,
            channels=channels,
            rows=fewest * pair_sums.distinct_share,
            witness=_witness(sums, design.block_sizes),
            # An entry of a positive definite matrix is at most the geometric mean of its two diagonal entries.
            entries=float(np.abs(sums.diagonal_N).mean()),
            precision=chosen,
        )
    return bound * fewest / max(fewest - 1, 1)


def _witness(sums: Sums, block_sizes: Sequence[int]) -> float:
    """Returns the root mean square over the rows of Σ_j w_j k(x_i, x_j), w_j = 1/n on x and −1/m on y."""
    if len(block_sizes) == 1:
        values_N: FloatArray = sums.rows_NP[:, 0] / block_sizes[0]
    else:
        values_N = sums.rows_NP[:, 0] / block_sizes[0] - sums.rows_NP[:, 1] / block_sizes[1]
    return float(np.sqrt(np.mean(np.square(values_N))))
