"""Results of the estimators over all pairs of rows, with their tests and intervals.

Legend: L layers, B permutations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vfmalign.client.messages.common import Estimate, absent
from vfmalign.client.messages.mmd import ComputeOptions, ShiftResult
from vfmalign.mmd.comparison.fourier_shift import absent_shift
from vfmalign.mmd.comparison.layer_pass import LayerPlan, LayerStatistics, compute_layer
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.comparison.standardisation import Scaled
from vfmalign.mmd.engine.compute_config import Backend
from vfmalign.mmd.statistics import uncertainty
from vfmalign.mmd.statistics.permutations import Permutations

# Aggregated statistics that differ by less than this share of their value differ by rounding.
TIE_OF_AGGREGATE = 1e-6


@dataclass(frozen=True)
class EvaluatedShift:
    """A result, the backend that summed its kernel matrix, and why it is not the configured one (else empty)."""

    shift: ShiftResult
    backend: Backend = "torch"
    backend_note: str = ""


def compute_exact_shifts(
    x: Sample, y: Sample, scaled_by_layer: Mapping[str, Scaled], plan: LayerPlan
) -> dict[str, EvaluatedShift]:
    """Computes all layers, raw or standardised, with shared permutations, so that max-T can adjust over layers.

    Raises:
        BadTensor: features too large to square.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    measured = {
        layer: compute_layer(scaled, x.layers[layer], y.layers[layer], plan, layer)
        for layer, scaled in scaled_by_layer.items()
    }
    permutations = plan.permutations
    present = {layer: entry.statistics for layer, entry in measured.items() if entry.statistics is not None}
    adjusted: dict[str, Estimate] = {}
    if present:
        p_values = uncertainty.max_t_p_values(
            np.array([statistics.observed for statistics in present.values()]),
            np.stack([statistics.permuted_B for statistics in present.values()]),
            np.array([measured[layer].bound for layer in present]),
            permutations,
        )
        adjusted = dict(zip(present, p_values, strict=True))
    return {
        layer: EvaluatedShift(_shift(entry, adjusted.get(layer), plan), entry.backend, entry.backend_note)
        for layer, entry in measured.items()
    }


def _shift(measured: LayerStatistics, adjusted: Estimate | None, plan: LayerPlan) -> ShiftResult:
    """Returns one result."""
    permutations, options = plan.permutations, plan.options
    statistics = measured.statistics
    if statistics is None or adjusted is None:
        return absent_shift(measured.absent_reason, measured.sigma, measured.precision)
    p = uncertainty.p_value(statistics.observed, statistics.permuted_B, measured.bound, permutations)
    interval = (
        uncertainty.jackknife(statistics.observed, statistics.left_out, options.interval_level, p.value)
        if statistics.left_out
        else None
    )
    return ShiftResult(
        mmd2=Estimate(value=statistics.observed, interval=interval, absent_reason=statistics.interval_absent_reason),
        sigma=measured.sigma,
        p_value=p,
        p_value_max_t=adjusted,
        permutations=permutations.count,
        enumerated=permutations.enumerated,
        error_bound=measured.bound,
        below_error_bound=abs(statistics.observed) <= measured.bound,
        precision=measured.precision,
        aggregated_p_value=_aggregated(measured, permutations, options),
    )


def _aggregated(measured: LayerStatistics, permutations: Permutations, options: ComputeOptions) -> Estimate:
    """Returns the p-value of the test over a grid of kernels."""
    if not options.test.aggregated:
        return absent("no test over a grid of bandwidths was requested")
    if permutations.absent_reason:
        return absent(permutations.absent_reason)
    if measured.aggregate is None:  # all rows are equal
        return Estimate(value=1.0)
    fused = measured.aggregate
    return uncertainty.p_value(fused.observed, fused.permuted_B, abs(fused.observed) * TIE_OF_AGGREGATE, permutations)
