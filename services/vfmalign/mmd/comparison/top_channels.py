"""The channels that move most between paired samples, their share of the displacement, and MMD² without them.

Distances between rows add up over all channels, so a few channels that move far can dominate MMD².

Legend: N pairs, I pairs of one block, C channels of the input, K channels that remain, T top channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from vfmalign.client.messages.common import Estimate, absent
from vfmalign.client.messages.mmd import ShiftResult, TestOptions, TopChannels
from vfmalign.core.domain.errors import BadOption
from vfmalign.mmd.comparison.all_pairs import adjust_over_layers, compute_exact_shift
from vfmalign.mmd.comparison.fourier_shift import absent_shift
from vfmalign.mmd.comparison.layer_pass import LayerPlan
from vfmalign.mmd.comparison.standardisation import Scaled, leave_out
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.lru_cache import NO_CACHE
from vfmalign.mmd.engine.row_streams import FeatureArray, RowStream, to_stream
from vfmalign.mmd.engine.rows import Affine, FloatArray, IntArray
from vfmalign.mmd.statistics.permutations import no_permutations

CHANNELS_PER_TOP_CHANNEL = 100
# With fewer channels, the top channel has a large share even if all channels move alike.
MIN_CHANNELS_OF_CAUTION = 100
LARGEST_SHARE = 0.5
_BLOCK_BYTES = 2**20
_NO_TEST = "MMD² without the top channels is not tested"
_NO_INTERVAL = "the share of the top channels and MMD² without them are values alone, without an interval"
_NOT_PAIRED = "the rows of the two samples are not pairs, so that a channel has no displacement"
_APPROXIMATED = "`random_fourier` does not look for the channels that move most"
_NOTHING_MOVES = "no channel moves between the samples"


def measure_top_channels(
    features: Sequence[FeatureArray], layer: str, scaled: Scaled, shift: ShiftResult, plan: LayerPlan | None
) -> TopChannels:
    """Measures how much the ⌈K/100⌉ channels with the largest mean squared displacement contribute to MMD².

    Reads the samples again to compute the displacement. Also evaluates the kernel again, but runs no test.

    Args:
        features: features of x, y and the reference in this layer; not used if `plan` is None.
        layer: name of the layer.
        scaled: standardisation of the layer.
        shift: result of the layer with all channels.
        plan: plan that computed `shift`; None for `random_fourier`.

    Raises:
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    reason = scaled.absent_reason or (_APPROXIMATED if plan is None else "")
    if plan is None or reason or plan.options.pairing != "paired":
        return _absent(reason or _NOT_PAIRED)
    x, y = (to_stream(sample, name) for sample, name in zip(features, ("x", "y"), strict=False))
    displacement_C = get_displacement(x, y, scaled.affine, plan.engine)
    total = math.fsum(displacement_C)
    if total == 0.0:
        return _absent(_NOTHING_MOVES)
    channels = int(scaled.affine.get_channel_mask(x.channels).sum())
    count = -(-channels // CHANNELS_PER_TOP_CHANNEL)
    top_T = np.argsort(-displacement_C, kind="stable")[:count]
    share = math.fsum(displacement_C[top_T]) / total
    without = _compute_without(top_T, features, layer, scaled, plan)
    return TopChannels(
        count=count,
        displacement_share=Estimate(value=share, absent_reason=_NO_INTERVAL),
        shift_without=without,
        caution=_get_caution(count, channels, share, shift.mmd2.value, without.mmd2.value),
    )


def get_displacement(x: RowStream, y: RowStream, affine: Affine, engine: ComputeConfig) -> FloatArray:
    """Returns the mean of ((y − x)/s)² over all pairs for each channel, in float64, [C]; 0 for excluded channels.

    Each process reads its own range of rows.
    """
    sd_C = np.ones(x.channels) if affine.sd_C is None else affine.sd_C
    # The scale includes the square root of N, because the sum of squares may overflow even if their mean does not.
    scale_C = torch.from_numpy(sd_C * math.sqrt(x.rows))
    sums_C = torch.zeros(x.channels, dtype=torch.float64)
    index, count = engine.communicator.shard
    first, end = index * x.rows // count, (index + 1) * x.rows // count
    step = max(1, _BLOCK_BYTES // (8 * x.channels))
    for start in range(first, end, step):
        engine.context.checkpoint()
        stop = min(start + step, end)
        moved_IC = y.read(start, stop).double().cpu() - x.read(start, stop).double().cpu()
        sums_C += moved_IC.div_(scale_C).square_().sum(dim=0)
    sums_C = sums_C.to(engine.device)
    engine.communicator.all_reduce(sums_C)
    return np.where(affine.get_channel_mask(x.channels), sums_C.cpu().numpy(), 0.0)


def _compute_without(
    channels_T: IntArray, features: Sequence[FeatureArray], layer: str, scaled: Scaled, plan: LayerPlan
) -> ShiftResult:
    """Computes MMD² without some channels. There is no test, and therefore no interval."""
    # The channels to leave out depend on both samples, so no other comparison could reuse the cached rows.
    engine = replace(plan.engine, cache=NO_CACHE)
    try:
        remaining = leave_out(scaled, channels_T, features, layer=layer, kernel=plan.options.kernel, engine=engine)
    except BadOption as error:
        return absent_shift(error.message, 0.0, "float64")
    untested = LayerPlan(
        plan.options.model_copy(update={"test": TestOptions()}),
        plan.estimator,
        plan.design,
        no_permutations(plan.design.groups, _NO_TEST),
        engine,
    )
    evaluated = {layer: compute_exact_shift(remaining, features[0], features[1], untested, layer)}
    shift = adjust_over_layers(evaluated, untested.permutations)[layer].shift
    if shift.mmd2.value is None:
        return shift
    return shift.model_copy(update={"mmd2": Estimate(value=shift.mmd2.value, absent_reason=_NO_INTERVAL)})


def _get_caution(count: int, channels: int, share: float, mmd2: float | None, without: float | None) -> str:
    """Returns a caution if few channels account for most of the displacement; empty otherwise."""
    if channels < MIN_CHANNELS_OF_CAUTION or share <= LARGEST_SHARE:
        return ""
    comparison = "" if mmd2 is None or without is None else f": it is {mmd2:.2g}, and {without:.2g} without them"
    return (
        f"{count} of {channels} channels hold {100 * share:.3g} % of the mean squared displacement. "
        f"MMD² mainly describes these channels{comparison}."
    )


def _absent(reason: str) -> TopChannels:
    return TopChannels(displacement_share=absent(reason), shift_without=absent_shift(reason, 0.0, "float64"))
