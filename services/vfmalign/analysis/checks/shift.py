"""Measures derived from MMD²: shift ratio, paired similarity and saturation."""

from __future__ import annotations

from collections.abc import Mapping

from vfmalign.client.messages.common import Estimate, absent
from vfmalign.client.messages.mmd import ComputeResponse, LayerResult, ShiftResult

SATURATION_THRESHOLD = 0.05
"""Paired similarity below which MMD² is saturated. It corresponds to a common displacement of 2.45 σ. How close MMD²
then is to its limit depends on the effective dimension of the features (docs/numbers.md)."""

FROZEN_SHIFT = absent("not applicable (frozen)")
"""Every number of the shift if the encoder is frozen."""


def make_frozen_shift(channels: Mapping[str, int]) -> ComputeResponse:
    """Returns the shift of a frozen encoder: each number is absent with the reason.

    Args:
        channels: number of channels of each layer, the primary layer first.
    """
    shift = ShiftResult(mmd2=FROZEN_SHIFT, p_value=FROZEN_SHIFT, p_value_max_t=FROZEN_SHIFT, sigma=0.0)
    return ComputeResponse(
        layers=tuple(
            LayerResult(layer=layer, channels=number, raw=shift, standardised=shift)
            for layer, number in channels.items()
        ),
        primary_layer=next(iter(channels)),
        estimator="unbiased_paired",
        rows_x=0,
        rows_y=0,
        groups=0,
        precision="",
    )


def shift_ratio(after: LayerResult, reinitialised: LayerResult) -> Estimate:
    """Returns the shift of a layer during fine-tuning, in units of the shift from pretrained to random weights.

    If the shift to random weights cannot be distinguished from zero, the ratio is absent, because it would be noise.
    """
    if after.standardised is None or reinitialised.standardised is None:
        return absent("no standardised features")
    numerator, denominator = after.standardised, reinitialised.standardised
    if numerator.mmd2.value is None or denominator.mmd2.value is None:
        return absent(numerator.mmd2.absent_reason or denominator.mmd2.absent_reason)
    if denominator.mmd2.value <= denominator.error_bound:
        return absent("the shift to random weights is not above zero at this precision")
    return Estimate(
        value=numerator.mmd2.value / denominator.mmd2.value, absent_reason="no interval is formed for this ratio"
    )


def paired_similarity(unbiased: LayerResult, biased: LayerResult, rows: int) -> Estimate:
    """Returns the mean over cases of k(x_i, y_i), the kernel between a case's features before and after fine-tuning.

    The paired U-statistic leaves out the terms h(z_i, z_i) = 2 − 2k(x_i, y_i). The V-statistic includes these terms.
    For n pairs, n·V − (n − 1)·U is therefore the mean of h(z_i, z_i). U and V are computed on the features that the
    reported MMD² uses.

    Args:
        unbiased: the U-statistic of Lemma 6, computed over pairs.
        biased: the V-statistic of the same samples with the same kernel. The kernel of two equal rows is 1.
        rows: n.
    """
    u, v = unbiased.standardised or unbiased.raw, biased.standardised or biased.raw
    if u.mmd2.value is None or v.mmd2.value is None:
        return absent(u.mmd2.absent_reason or v.mmd2.absent_reason)
    # n amplifies the errors of U and V. Precision of a tenth of the threshold suffices to decide about saturation.
    if (rows * v.error_bound + (rows - 1) * u.error_bound) / 2 > SATURATION_THRESHOLD / 10:
        return absent("the precision of MMD² is too low to resolve the kernel between a case and itself")
    mean = 1 - (rows * v.mmd2.value - (rows - 1) * u.mmd2.value) / 2
    # The kernel is between 0 and 1, but rounding errors of U and V can move its mean out of this range.
    return Estimate(value=min(max(mean, 0.0), 1.0), absent_reason="no interval is formed for this mean")


def is_saturated(similarity: Estimate) -> bool:
    """Whether the layer's paired similarity is so low that MMD² no longer grows with the distance of the features."""
    return similarity.value is not None and similarity.value < SATURATION_THRESHOLD
