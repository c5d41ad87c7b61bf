"""Standardisation and bandwidth of one layer: its features raw, and standardised by a reference.

Scale and bandwidth come from the reference. If they came from both samples, they would grow with the shift that they
are meant to measure.

Legend: F rows that a scale is fitted to, N rows, C channels of the input, K channels that remain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.mmd.comparison.options import ComparisonOptions, ComputeConfig
from vfmalign.mmd.comparison.samples import Features, shape_of
from vfmalign.mmd.engine import rows
from vfmalign.mmd.engine.kernels import KERNELS, WITHOUT_BANDWIDTH, BoundKernel
from vfmalign.mmd.engine.lru_cache import IdentityKey
from vfmalign.mmd.engine.row_streams import FeatureArray, read_rows, to_numpy
from vfmalign.mmd.engine.rows import UNCHANGED, Affine
from vfmalign.mmd.statistics import bandwidths

# The SD of a channel below this share of the median SD is rounding, which standardisation would amplify.
SMALLEST_RELATIVE_SD = 1e-6
_FLOAT_BYTES = 8
_CENTRING_ROWS = 1024
_ONE_ROW = "the reference has one row, and a scale and a bandwidth need at least two"


@dataclass(frozen=True)
class Scaled:
    """One layer, raw or standardised.

    Attributes:
        name: `raw` or `standardised`.
        affine: transformation of the features.
        sigma: bandwidth; 0 if the kernel has none, or if it is absent.
        channels_excluded: number of channels that standardisation excludes.
        absent_reason: why there is no bandwidth; empty otherwise.
    """

    name: str
    affine: Affine
    sigma: float = 0.0
    channels_excluded: int = 0
    absent_reason: str = ""

    def kernel(self, family: str, channels: int) -> BoundKernel:
        """Return the kernel of a family at this bandwidth."""
        return KERNELS[family](self.sigma, channels)


def scalings(
    features: Sequence[Features], layer: str, options: ComparisonOptions, engine: ComputeConfig
) -> Iterator[Scaled]:
    """Yield the layer raw and, with a reference, standardised by it.

    A reference of one row gives neither scale nor bandwidth; both then carry the reason.

    Args:
        features: of x, y and an optional reference, which is in memory.
        layer: name of the layer in errors.
        options: kernel and rule of the bandwidth.
        engine: device, cache and context.

    Raises:
        BadOption: no channel varies, or the bandwidth is 0.
    """
    fitted_FC = _read_first_rows(features[2] if len(features) > 2 else features[0])
    centring = engine.cache.get_or_create(
        ("centring", IdentityKey(fitted_FC)), lambda: Affine(rows.central_point(fitted_FC)), _bytes
    )
    # Kernels of inner products depend on the origin, so that their features are not centred.
    raw = Scaled("raw", UNCHANGED if options.kernel in WITHOUT_BANDWIDTH else centring)
    if len(features) > 2 and fitted_FC.shape[0] < 2:
        yield replace(raw, absent_reason=_ONE_ROW)
        yield replace(raw, name="standardised", absent_reason=_ONE_ROW)
        return
    standardising = None
    if len(features) > 2:
        key = ("standardising", IdentityKey(fitted_FC))
        standardising = engine.cache.get_or_create(
            key, lambda: _standardising(fitted_FC, layer, engine.context), _bytes
        )
    excluded = 0 if standardising is None else int((~standardising.channel_mask_C).sum())  # type: ignore[operator]
    yield replace(raw, sigma=_sigma(features, raw.affine, layer, options, engine), channels_excluded=excluded)
    if standardising is not None:
        sigma = _sigma(features, standardising, layer, options, engine)
        yield Scaled("standardised", standardising, sigma, excluded)


def _standardising(reference_FC: FeatureArray, layer: str, context: WorkContext) -> Affine:
    """Return (x − mean)/SD of the reference, without channels whose SD is below 1e-6 of the median SD."""
    mean_C = rows.mean(reference_FC, context)
    sd_C = rows.standard_deviation(reference_FC, mean_C)
    channel_mask_C = (sd_C >= SMALLEST_RELATIVE_SD * float(np.median(sd_C))) & (reference_FC != reference_FC[:1]).any(
        axis=0
    )
    if not channel_mask_C.any():
        raise BadOption(
            f"no channel of layer `{layer}` varies over the reference",
            field="reference",
            remedy="use cases that differ",
        )
    return Affine(mean_C, sd_C, channel_mask_C)


def _read_first_rows(features: Features) -> FeatureArray:
    """Return features in memory, or the first rows of a stream, which are enough to find a centre."""
    if isinstance(features, np.ndarray):
        return features
    return to_numpy(features.read(0, min(features.rows, _CENTRING_ROWS)))


def _sigma(
    features: Sequence[Features], affine: Affine, layer: str, options: ComparisonOptions, engine: ComputeConfig
) -> float:
    """Return the bandwidth by the requested rule, in units of the transformed features."""
    if options.kernel in WITHOUT_BANDWIDTH:
        return 0.0
    if options.fixed_sigma is not None:
        return options.fixed_sigma
    fitted = features[:2] if options.bandwidth == "pooled_median" else features[2:]
    return engine.cache.get_or_create(
        ("median", IdentityKey(affine), *map(IdentityKey, fitted)),
        lambda: bandwidths.median_distance(prepare_bandwidth_rows(fitted, affine, engine), layer, engine.context),
        lambda _: _FLOAT_BYTES,
    )


def prepare_bandwidth_rows(features: Sequence[Features], affine: Affine, engine: ComputeConfig) -> rows.Rows:
    """Return the rows from which bandwidths are computed, in float64: all rows, or a fixed subset of many."""
    ends = np.cumsum([0, *(shape_of(sample)[0] for sample in features)])
    selected = bandwidths.sample_rows(int(ends[-1]))
    parts: list[FeatureArray] = []
    for sample, start, end in zip(features, ends[:-1], ends[1:], strict=True):
        if selected is None:
            part = sample if isinstance(sample, np.ndarray) else to_numpy(sample.read(0, sample.rows))
        else:
            order = selected[(selected >= start) & (selected < end)] - start
            part = sample[order] if isinstance(sample, np.ndarray) else to_numpy(read_rows(sample, order.tolist()))
        parts.append(part)
    return rows.prepare([(part, None) for part in parts], affine, "float64", torch.device(engine.device))


def _bytes(affine: Affine) -> int:
    return affine.nbytes
