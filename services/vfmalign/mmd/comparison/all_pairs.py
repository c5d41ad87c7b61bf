"""Estimates of MMD² over all pairs of rows, with their tests and intervals.

Legend: N rows of x, M rows of y, C channels, L layers, B permutations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from vfmalign.client.messages.common import Estimate, absent
from vfmalign.client.messages.mmd import ComputeOptions, ShiftResult
from vfmalign.mmd.comparison.fourier_shift import absent_shift
from vfmalign.mmd.comparison.layer_pass import LayerPlan, LayerStatistics, compute_layer
from vfmalign.mmd.comparison.standardisation import Scaled
from vfmalign.mmd.engine.compute_config import Backend
from vfmalign.mmd.engine.row_streams import FeatureArray
from vfmalign.mmd.engine.rows import FloatArray
from vfmalign.mmd.statistics import uncertainty
from vfmalign.mmd.statistics.permutations import Permutations

# Aggregated statistics that differ by less than this share of their value differ by rounding.
TIE_OF_AGGREGATE = 1e-6


@dataclass(frozen=True)
class EvaluatedShift:
    """Shift of one layer, and the backend that summed its kernel matrix.

    Attributes:
        backend_note: why the configured backend was not used; empty if it was used.
        permuted_B: MMD² under each permutation. The p-values are adjusted over layers with these values. None if there
            is no estimate.
    """

    shift: ShiftResult
    backend: Backend = "torch"
    backend_note: str = ""
    permuted_B: FloatArray | None = None


def compute_exact_shift(
    scaled: Scaled, x_NC: FeatureArray, y_MC: FeatureArray, plan: LayerPlan, layer: str
) -> EvaluatedShift:
    """Computes the shift of one raw or standardised layer. Does not adjust the p-value over layers.

    Raises:
        BadTensor: the features are so large that their squares overflow.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    measured = compute_layer(scaled, x_NC, y_MC, plan, layer)
    permutations, options, statistics = plan.permutations, plan.options, measured.statistics
    if statistics is None:
        shift = absent_shift(measured.absent_reason, measured.sigma, measured.precision)
        return EvaluatedShift(shift, measured.backend, measured.backend_note)
    p = uncertainty.p_value(statistics.observed, statistics.permuted_B, measured.bound, permutations)
    interval = (
        uncertainty.jackknife(statistics.observed, statistics.left_out, options.interval_level, p.value)
        if statistics.left_out
        else None
    )
    shift = ShiftResult(
        mmd2=Estimate(value=statistics.observed, interval=interval, absent_reason=statistics.interval_absent_reason),
        sigma=measured.sigma,
        p_value=p,
        permutations=permutations.count,
        enumerated=permutations.enumerated,
        error_bound=measured.bound,
        below_error_bound=abs(statistics.observed) <= measured.bound,
        precision=measured.precision,
        aggregated_p_value=_aggregated(measured, permutations, options),
    )
    return EvaluatedShift(shift, measured.backend, measured.backend_note, statistics.permuted_B)


def adjust_over_layers(
    evaluated: Mapping[str, EvaluatedShift], permutations: Permutations
) -> dict[str, EvaluatedShift]:
    """Adjusts the p-values of all layers by max-T. All layers must share their permutations."""
    adjusted = dict(evaluated)
    present = {layer: one for layer, one in evaluated.items() if one.permuted_B is not None}
    if not present:
        return adjusted
    p_values = uncertainty.max_t_p_values(
        np.array([one.shift.mmd2.value for one in present.values()]),
        np.stack([one.permuted_B for one in present.values() if one.permuted_B is not None]),
        np.array([one.shift.error_bound for one in present.values()]),
        permutations,
    )
    for (layer, one), p_value in zip(present.items(), p_values, strict=True):
        adjusted[layer] = replace(one, shift=one.shift.model_copy(update={"p_value_max_t": p_value}))
    return adjusted


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
