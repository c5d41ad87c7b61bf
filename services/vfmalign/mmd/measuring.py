"""One layer in one scaling: the pass over its tiles, in the precision that keeps its digits. Knows nothing of layers.

Legend: N and M rows of x and y, K channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vfmalign.core.errors import BadTensor
from vfmalign.mmd import estimators, precision
from vfmalign.mmd.designs import Design, Statistics
from vfmalign.mmd.engine import accumulate, squared_norms, tile_rows_within
from vfmalign.mmd.estimators import EstimatorName
from vfmalign.mmd.kernels import Kernel
from vfmalign.mmd.precision import DTYPES, PrecisionName
from vfmalign.mmd.relabelling import Relabellings
from vfmalign.mmd.results import Engine
from vfmalign.mmd.scalings import Scaled

# Squares of larger features overflow; float32 ends long before float64.
_LARGEST_SQUARED_NORM: dict[PrecisionName, float] = {"float32": 1e36, "float64": 1e300}


@dataclass(frozen=True)
class Plan:
    """What all layers of a comparison share."""

    kernel: Kernel
    estimator: EstimatorName
    design: Design
    relabellings: Relabellings
    engine: Engine


@dataclass(frozen=True)
class Measured:
    """Statistics and their error bound at a precision, or why there are none."""

    sigma: float
    statistics: Statistics | None
    bound: float
    precision: PrecisionName
    absent_reason: str = ""


def measure(scaled: Scaled, plan: Plan, layer: str) -> Measured:
    """One pass over the tiles, and a second in float64 where float32 would leave less than a digit.

    Raises:
        BadTensor: features too large to square.
        Cancelled: the engine was told to stop.
    """
    fewest = min(scaled.x_NK.shape[0], scaled.y_MK.shape[0])
    reason = scaled.absent_reason
    if not reason and fewest < estimators.smallest_rows(plan.estimator):
        reason = f"an unbiased estimate needs at least 2 rows per sample, got {fewest}"
    if reason:
        return Measured(scaled.sigma, None, 0.0, "float64", reason)
    chosen = _precision(scaled, plan, layer)
    measured = _one_pass(scaled, plan, chosen)
    if plan.engine.precision == "auto" and chosen == "float32" and _loses_digits(measured):
        return _one_pass(scaled, plan, "float64")
    return measured


def _precision(scaled: Scaled, plan: Plan, layer: str) -> PrecisionName:
    """The precision of the first pass."""
    largest = max(float(squared_norms(part).max()) for part in (scaled.x_NK, scaled.y_MK))
    asked = plan.engine.precision
    if not largest <= _LARGEST_SQUARED_NORM["float64" if asked == "auto" else asked]:
        raise BadTensor(
            f"features of layer `{layer}` are too large to square", field="layers", remedy="scale them down"
        )
    if asked != "auto":
        return asked
    if largest > _LARGEST_SQUARED_NORM["float32"]:
        return "float64"
    rows = int(scaled.x_NK.shape[0] + scaled.y_MK.shape[0])
    return precision.choose(rows, int(scaled.x_NK.shape[1]), plan.engine.device)


def _loses_digits(measured: Measured) -> bool:
    """Whether the error may reach into the first digit of the estimate."""
    statistics = measured.statistics
    return statistics is None or abs(statistics.observed) < precision.SAFE_MULTIPLE_OF_BOUND * measured.bound


def _one_pass(scaled: Scaled, plan: Plan, name: PrecisionName) -> Measured:
    """Statistics and error bound at one precision."""
    x_NK, y_MK = scaled.x_NK.to(DTYPES[name]), scaled.y_MK.to(DTYPES[name])
    sums = accumulate(
        plan.design.tiles(x_NK, y_MK, plan.kernel, scaled.sigma),
        plan.design.block_sizes,
        plan.design.group_of,
        plan.relabellings.weights_GB,
        tile_rows=plan.engine.tile_rows or tile_rows_within(plan.engine.tile_bytes),
        should_stop=plan.engine.should_stop,
    )
    mean_squared_norm = float(torch.cat([squared_norms(scaled.x_NK), squared_norms(scaled.y_MK)]).mean())
    bound = precision.error_bound(
        plan.kernel.largest_slope(scaled.sigma) * mean_squared_norm,
        channels=x_NK.shape[1],
        rows=min(x_NK.shape[0], y_MK.shape[0]),
        precision=name,
    )
    return Measured(scaled.sigma, plan.design.statistics(plan.estimator, sums, plan.relabellings), bound, name)
