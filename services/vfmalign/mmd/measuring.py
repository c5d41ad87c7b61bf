"""One layer in one scaling: the pass over its tiles, in the precision that keeps its digits. Knows nothing of layers.

Legend: N and M rows of x and y, C channels as given, K channels kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vfmalign.core.errors import BadTensor
from vfmalign.mmd import aggregated, backends, estimators, precision, products, rows
from vfmalign.mmd.designs import Design, Statistics
from vfmalign.mmd.engine import Layout, Sums
from vfmalign.mmd.estimators import EstimatorName
from vfmalign.mmd.kernels import Kernel
from vfmalign.mmd.precision import PrecisionName
from vfmalign.mmd.relabelling import Relabellings
from vfmalign.mmd.results import Backend, Engine, Options
from vfmalign.mmd.rows import FloatArray, Rows
from vfmalign.mmd.samples import FeatureArray
from vfmalign.mmd.scalings import Scaled

# Squares of larger features overflow; float32 ends long before float64.
_LARGEST_SQUARED_NORM: dict[PrecisionName, float] = {"bfloat16": 1e36, "float32": 1e36, "float64": 1e300}


@dataclass(frozen=True)
class Plan:
    """What all layers of a comparison share."""

    options: Options
    estimator: EstimatorName
    design: Design
    relabellings: Relabellings
    engine: Engine

    @property
    def layout(self) -> Layout:
        """Blocks, groups and relabellings as the engine takes them."""
        return Layout(self.design.block_sizes, self.design.group_of, self.relabellings.weights_GB)


@dataclass(frozen=True)
class Measured:
    """Statistics and their error bound at a precision, or why there are none.

    Attributes:
        aggregate: the statistic over a grid of kernels, observed and relabelled; None where it was not asked for.
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


def measure(scaled: Scaled, x_NC: FeatureArray, y_MC: FeatureArray, plan: Plan, layer: str) -> Measured:
    """One pass over the tiles, and a second in float64 where the first would leave less than a digit.

    Raises:
        BadTensor: features too large to square.
        Cancelled: the engine was told to stop.
    """
    fewest = min(x_NC.shape[0], y_MC.shape[0])
    reason = scaled.absent_reason
    if not reason and fewest < estimators.smallest_rows(plan.estimator):
        reason = f"an unbiased estimate needs at least 2 rows per sample, got {fewest}"
    if reason:
        return Measured(scaled.sigma, None, 0.0, "float64", reason)
    device = plan.engine.device
    chosen = precision.choose(
        plan.options.precision or plan.engine.precision,
        int(x_NC.shape[0] + y_MC.shape[0]),
        int(x_NC.shape[1]),
        device,
        matrix_units=products.has_matrix_units(device),
    )
    measured = _one_pass(scaled, x_NC, y_MC, plan, chosen)
    if measured is None or (chosen != "float64" and _loses_digits(measured)):
        measured = _one_pass(scaled, x_NC, y_MC, plan, "float64")
    if measured is None:
        raise BadTensor(
            f"features of layer `{layer}` are too large to square", field="layers", remedy="scale them down"
        )
    return measured


def _loses_digits(measured: Measured) -> bool:
    """Whether the error may reach into the first digit of the estimate."""
    statistics = measured.statistics
    return statistics is None or abs(statistics.observed) < precision.SAFE_MULTIPLE_OF_BOUND * measured.bound


def _one_pass(
    scaled: Scaled, x_NC: FeatureArray, y_MC: FeatureArray, plan: Plan, chosen: PrecisionName
) -> Measured | None:
    """Statistics at one precision; None where squares would overflow in it."""
    design, engine = plan.design, plan.engine
    parts = [(x_NC, design.x_order), (y_MC, design.y_order)]
    with np.errstate(over="ignore"):
        pooled = rows.prepare(parts, scaled.affine, chosen, engine.device, engine.kept)
    if not float(pooled.norms_N.max()) <= _LARGEST_SQUARED_NORM[chosen]:
        return None
    kernel = scaled.kernel(plan.options.kernel, pooled.channels)
    kernels = [kernel]
    if plan.options.aggregated:
        kernels += aggregated.kernels(x_NC, y_MC, scaled, engine)
    summed = backends.accumulate(design.matrix(pooled), kernels, plan.layout, engine, squares=plan.options.aggregated)
    statistics = [design.statistics(plan.estimator, sums, plan.relabellings) for sums in summed.sums]
    return Measured(
        scaled.sigma,
        statistics[0],
        _bound(pooled, kernel, summed.sums[0], plan),
        chosen,
        aggregate=aggregated.fuse(statistics[1:], summed.sums[1:], pooled.count) if plan.options.aggregated else None,
        backend=summed.backend,
        backend_note=summed.note,
    )


def _bound(pooled: Rows, kernel: Kernel, sums: Sums, plan: Plan) -> float:
    """The error bound of this pass."""
    fewest = min(plan.design.block_sizes)
    norms_N = pooled.norms_N.double()
    norm = float(norms_N.square().mean().sqrt())
    largest = 1.0 if kernel.argument == "distance" else float(np.abs(sums.diagonal_N).max())
    return (
        precision.error_bound(
            slope=kernel.slope,
            norm=norm,
            channels=pooled.channels,
            rows=fewest * pooled.distinct / pooled.count,
            witness=_witness(sums, plan.design.block_sizes),
            largest=largest,
            precision=pooled.precision,
            root=kernel.root,
        )
        * fewest
        / max(fewest - 1, 1)
    )


def _witness(sums: Sums, block_sizes: Sequence[int]) -> float:
    """Root mean square over the rows of Σ_j w_j k(x_i, x_j), w_j = 1/n on x and −1/m on y."""
    if len(block_sizes) == 1:
        values_N: FloatArray = sums.rows_NP[:, 0] / block_sizes[0]
    else:
        values_N = sums.rows_NP[:, 0] / block_sizes[0] - sums.rows_NP[:, 1] / block_sizes[1]
    return float(np.sqrt(np.mean(np.square(values_N))))
