"""Standardises one layer by a reference.

Computes the bandwidths for the raw and the standardised features of the layer.

Scale and bandwidth come from the reference, because values computed from x and y would grow with the shift.

Legend: F rows that determine a scale, N rows of a sample, C channels of the input, K channels that remain, T removed
channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from vfmalign.client.messages.mmd import Kernel
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.mmd.comparison.samples import Features, get_shape
from vfmalign.mmd.engine import rows
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.kernels import KERNELS, WITHOUT_BANDWIDTH, BoundKernel
from vfmalign.mmd.engine.lru_cache import IdentityKey
from vfmalign.mmd.engine.row_streams import FeatureArray, read_rows, to_numpy
from vfmalign.mmd.engine.rows import UNCHANGED, Affine, IntArray
from vfmalign.mmd.statistics import bandwidths

# An SD below this share of the median SD of the channels is due to rounding.
SMALLEST_RELATIVE_SD = 1e-6
# Smallest scale as a share of the median SD. A channel that hardly varies in the reference and moves by many of its own
# SDs would otherwise outweigh all others (docs/adr/0054-*.md).
SCALE_FLOOR = 0.1
_FLOAT_BYTES = 8
_CENTRING_ROWS = 1024
_ONE_ROW = "the reference has one row, and a scale and a bandwidth need at least two"


@dataclass(frozen=True)
class Scaled:
    """Transformation and bandwidth of one raw or standardised layer.

    Attributes:
        name: `raw` or `standardised`.
        affine: transformation of the features.
        sigma: bandwidth; 0 if the kernel needs no bandwidth, or if `absent_reason` is set.
        channels_excluded: number of channels that standardisation excludes.
        channels_at_floor: number of channels whose SD is below the smallest allowed scale. This scale replaces their
            SD.
        median_sd: median SD of the remaining channels in units of the features; 0 for raw features.
        absent_reason: why there is no bandwidth; empty otherwise.
    """

    name: str
    affine: Affine
    sigma: float = 0.0
    channels_excluded: int = 0
    channels_at_floor: int = 0
    median_sd: float = 0.0
    absent_reason: str = ""

    def kernel(self, family: str, channels: int) -> BoundKernel:
        """Returns a kernel of this family with the bandwidth of the layer."""
        return KERNELS[family](self.sigma, channels)


def scalings(
    features: Sequence[Features], layer: str, kernel: Kernel, engine: ComputeConfig, *, standardise: bool = True
) -> Iterator[Scaled]:
    """Yields the raw layer. If there is a reference, also yields the layer standardised by the reference.

    A reference of one row yields neither a scale nor a bandwidth. The `absent_reason` of both layers then contains the
    reason.

    Args:
        features: features of x, y and an optional reference. The reference must be in memory.
        layer: name of the layer, for error messages.
        kernel: kernel family and bandwidth rule.
        engine: device, cache and context.
        standardise: whether to yield the standardised layer too.

    Raises:
        BadOption: no channel varies, or the bandwidth is 0.
    """
    fitted_FC = _read_first_rows(features[2] if len(features) > 2 else features[0])
    centring = engine.cache.get_or_create(
        ("centring", IdentityKey(fitted_FC)), lambda: Affine(rows.central_point(fitted_FC, engine.context)), _bytes
    )
    # Kernels of inner products depend on the origin, so their features must not be centred.
    raw = Scaled("raw", UNCHANGED if kernel.family in WITHOUT_BANDWIDTH else centring)
    standardises = len(features) > 2 and standardise
    if len(features) > 2 and fitted_FC.shape[0] < 2:
        yield replace(raw, absent_reason=_ONE_ROW)
        if standardises:
            yield replace(raw, name="standardised", absent_reason=_ONE_ROW)
        return
    standardised = None
    if standardises:
        standardised = engine.cache.get_or_create(
            ("standardised", IdentityKey(fitted_FC)),
            lambda: _standardise(fitted_FC, layer, engine.context),
            lambda scaled: _bytes(scaled.affine),
        )
    yield replace(raw, sigma=_sigma(features, raw.affine, layer, kernel, engine))
    if standardised is not None:
        yield replace(standardised, sigma=_sigma(features, standardised.affine, layer, kernel, engine))


def leave_out(
    scaled: Scaled,
    channels_T: IntArray,
    features: Sequence[Features],
    *,
    layer: str,
    kernel: Kernel,
    engine: ComputeConfig,
) -> Scaled:
    """Returns a layer without some input channels.

    The bandwidth of the remaining layer is computed again, by the same rule.

    Raises:
        BadOption: no channel remains, or the bandwidth is 0.
    """
    channel_mask_C = scaled.affine.get_channel_mask(get_shape(features[0])[1]).copy()
    channel_mask_C[channels_T] = False
    if not channel_mask_C.any():
        raise BadOption("no channel remains without them", field="layers", remedy="send more channels")
    affine = replace(scaled.affine, channel_mask_C=channel_mask_C)
    return replace(scaled, affine=affine, sigma=_sigma(features, affine, layer, kernel, engine))


def _standardise(reference_FC: FeatureArray, layer: str, context: WorkContext) -> Scaled:
    """Returns the transformation (x − mean)/s′ of the channels that vary in the reference, without a bandwidth.

    s′ is the SD, but at least 0.1 of the median SD of the remaining channels. A channel is left out if it is constant,
    or if its SD is below 1e-6 of the median SD of the channels that vary.
    """
    mean_C = rows.mean(reference_FC, context)
    sd_C = rows.standard_deviation(reference_FC, mean_C, context)
    varying_C = (reference_FC != reference_FC[:1]).any(axis=0)
    if not varying_C.any():
        raise BadOption(
            f"no channel of layer `{layer}` varies in the reference",
            field="reference",
            remedy="use a reference of cases that differ",
        )
    channel_mask_C = varying_C & (sd_C >= SMALLEST_RELATIVE_SD * float(np.median(sd_C[varying_C])))
    median_sd = float(np.median(sd_C[channel_mask_C]))
    floor = SCALE_FLOOR * median_sd
    return Scaled(
        "standardised",
        Affine(mean_C, np.maximum(sd_C, floor), channel_mask_C),
        channels_excluded=int((~channel_mask_C).sum()),
        channels_at_floor=int((channel_mask_C & (sd_C < floor)).sum()),
        median_sd=median_sd,
    )


def _read_first_rows(features: Features) -> FeatureArray:
    """Returns features that are in memory, or the first rows of a stream, which suffice to compute a centre."""
    if isinstance(features, np.ndarray):
        return features
    return to_numpy(features.read(0, min(features.rows, _CENTRING_ROWS)))


def _sigma(features: Sequence[Features], affine: Affine, layer: str, kernel: Kernel, engine: ComputeConfig) -> float:
    """Computes the bandwidth by the requested rule. Its units are those of the transformed features."""
    if kernel.family in WITHOUT_BANDWIDTH:
        return 0.0
    if kernel.fixed_sigma:
        return kernel.fixed_sigma
    fitted = features[:2] if kernel.bandwidth_rule == "pooled_median" else features[2:]
    return engine.cache.get_or_create(
        ("median", IdentityKey(affine), *map(IdentityKey, fitted)),
        lambda: bandwidths.median_distance(prepare_bandwidth_rows(fitted, affine, engine), layer, engine.context),
        lambda _: _FLOAT_BYTES,
    )


def prepare_bandwidth_rows(features: Sequence[Features], affine: Affine, engine: ComputeConfig) -> rows.Rows:
    """Returns the rows that a bandwidth is computed from, in float64.

    If there are too many rows, a fixed subset replaces them.
    """
    ends = np.cumsum([0, *(get_shape(sample)[0] for sample in features)])
    selected = bandwidths.sample_rows(int(ends[-1]))
    parts: list[FeatureArray] = []
    for sample, start, end in zip(features, ends[:-1], ends[1:], strict=True):
        if selected is None:
            part = sample if isinstance(sample, np.ndarray) else to_numpy(sample.read(0, sample.rows))
        else:
            order = selected[(selected >= start) & (selected < end)] - start
            part = sample[order] if isinstance(sample, np.ndarray) else to_numpy(read_rows(sample, order.tolist()))
        parts.append(part)
    device = torch.device(engine.device)
    return rows.prepare([(part, None) for part in parts], affine, "float64", device, context=engine.context)


def _bytes(affine: Affine) -> int:
    return affine.nbytes
