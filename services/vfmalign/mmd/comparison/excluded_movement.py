"""Movement of the channels that standardisation excludes.

Standardisation excludes a channel that is constant in the reference, because its SD is 0. If such a channel varies in x
or y, MMD² of the standardised features does not show this. Standardisation keeps channels if their SD is below
`SCALE_FLOOR` times the median SD, but above the limit for exclusion. Standardisation divides these channels by a tenth
of the median SD.

Legend: I rows of one block, C channels of the input, E excluded channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from vfmalign.client.messages.common import Estimate, absent
from vfmalign.client.messages.mmd import ExcludedMovement, Pairing, ShiftResult
from vfmalign.mmd.comparison.samples import Features
from vfmalign.mmd.comparison.standardisation import SCALE_FLOOR, SMALLEST_RELATIVE_SD, Scaled
from vfmalign.mmd.comparison.top_channels import get_displacement
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.row_streams import RowStream, to_stream
from vfmalign.mmd.engine.rows import Affine, FloatArray

_BLOCK_BYTES = 2**20
_NO_INTERVAL = "the displacement of excluded channels is a value alone, without an interval"
_NONE_MOVES = "no channel that standardisation excludes moves between the samples"
_OUT_OF_RANGE = "the displacement of the channels that standardisation excludes is beyond the range of a double"


def measure_excluded_movement(
    features: Sequence[Features], scaled: Scaled, raw: ShiftResult, pairing: Pairing, engine: ComputeConfig
) -> ExcludedMovement:
    """Measures how far the excluded channels of a layer move. Reads x and y again if any channel is excluded.

    Args:
        features: features of x and y.
        scaled: standardisation of the layer.
        raw: result of the raw features, which still include the excluded channels.
        pairing: whether the rows of x and y are pairs.
        engine: context and communicator.

    Raises:
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    if scaled.absent_reason or not scaled.channels_excluded:
        return ExcludedMovement(displacement=absent(scaled.absent_reason or _NONE_MOVES))
    x, y = (to_stream(sample, name) for sample, name in zip(features, ("x", "y"), strict=True))
    excluded_C = ~scaled.affine.get_channel_mask(x.channels)
    in_median_sds = Affine(sd_C=np.full(x.channels, scaled.median_sd), channel_mask_C=excluded_C)
    measure = get_displacement if pairing == "paired" else get_marginal_displacement
    displacement_E = measure(x, y, in_median_sds, engine)[excluded_C]
    moved_E = displacement_E[~(displacement_E < SMALLEST_RELATIVE_SD**2)]  # NaN where squares overflow
    count, norm = len(moved_E), math.hypot(*np.sqrt(moved_E))
    if not count:
        return ExcludedMovement(displacement=absent(_NONE_MOVES))
    if not math.isfinite(norm):
        return ExcludedMovement(count=count, displacement=absent(_OUT_OF_RANGE))
    size = norm / math.sqrt(count)
    return ExcludedMovement(
        count=count,
        displacement=Estimate(value=size, absent_reason=_NO_INTERVAL),
        caution=_get_caution(count, x.channels, size, raw.mmd2.value) if norm >= SCALE_FLOOR else "",
    )


def get_marginal_displacement(x: RowStream, y: RowStream, affine: Affine, engine: ComputeConfig) -> FloatArray:
    """Returns ((x̄ − ȳ)² + (s_x − s_y)²)/s² of each channel in float64, [C]; 0 for excluded channels.

    If both marginal distributions are normal, this value is their squared Fréchet distance. The value never exceeds the
    mean squared displacement, however the rows are paired.
    """
    mask_C = affine.get_channel_mask(x.channels)
    # Centring a constant channel on its own value gives an SD of exactly 0; on another value, an SD of rounding errors.
    affine = replace(affine, centre_C=x.read(0, 1)[0].double().cpu().numpy())
    moments_2E = [_get_moments(stream, affine, engine) for stream in (x, y)]
    displacement_C = np.zeros(x.channels)
    displacement_C[mask_C] = (moments_2E[0] - moments_2E[1]).square_().sum(dim=0).cpu().numpy()
    return displacement_C


def _get_moments(stream: RowStream, affine: Affine, engine: ComputeConfig) -> Tensor:
    """Returns the mean and SD of the remaining channels, [2, E]. Each process reads its own range of rows."""
    index, count = engine.communicator.shard
    first, end = index * stream.rows // count, (index + 1) * stream.rows // count
    step = max(1, _BLOCK_BYTES // (8 * stream.channels))
    sums_2E = torch.zeros(2, int(affine.get_channel_mask(stream.channels).sum()), dtype=torch.float64)
    for start in range(first, end, step):
        engine.context.checkpoint()
        block_IE = affine.apply(stream.read(start, min(start + step, end)).cpu())
        sums_2E += torch.stack([block_IE.sum(dim=0), block_IE.square().sum(dim=0)])
    sums_2E = sums_2E.to(engine.device)
    engine.communicator.all_reduce(sums_2E)
    mean_E, square_E = sums_2E / stream.rows
    return torch.stack([mean_E, (square_E - mean_E.square()).clamp_(min=0.0).sqrt_()])


def _get_caution(count: int, channels: int, size: float, raw: float | None) -> str:
    """Returns the caution to report with the result."""
    value = "" if raw is None else f", {raw:.2g},"
    return (
        f"{count} of {channels} channels did not vary in the reference and moved by {size:.2g} SDs (root mean square, "
        "in units of the median SD of the other channels). MMD² of the standardised features leaves them out; "
        f"MMD² of the raw features{value} includes them."
    )
