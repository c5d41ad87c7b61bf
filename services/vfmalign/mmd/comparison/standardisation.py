"""One layer's features as they are and standardised: centre, scale and bandwidth of each.

Scale and bandwidth come from a reference, so that they do not grow with the shift they should measure.

Legend: C channels as given, K channels kept.
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

# A channel with less than this share of the median SD carries rounding, which scaling would blow up.
SMALLEST_RELATIVE_SD = 1e-6
_FLOAT_BYTES = 8
_CENTRING_ROWS = 1024
_ONE_ROW = "the reference has one row; a scale and a bandwidth need at least two"


@dataclass(frozen=True)
class Scaled:
    """How one layer is looked at.

    Attributes:
        name: `raw` or `standardised`.
        affine: what is done to the features.
        sigma: bandwidth; 0 where the kernel has none or `absent_reason` says why there is none.
        left_out: channels that standardising leaves out.
    """

    name: str
    affine: Affine
    sigma: float = 0.0
    left_out: int = 0
    absent_reason: str = ""

    def kernel(self, family: str, channels: int) -> BoundKernel:
        """The kernel at this bandwidth."""
        return KERNELS[family](self.sigma, channels)


def scalings(
    given: Sequence[Features], layer: str, options: ComparisonOptions, engine: ComputeConfig
) -> Iterator[Scaled]:
    """The layer raw and, with a reference, standardised by it.

    A reference of one row gives neither scale nor bandwidth: both scalings then come back with the reason.

    Args:
        given: features of x, y and perhaps the reference, which is at hand.
        layer: how errors name it.
        options: kernel and rule of the bandwidth.
        engine: where to compute.

    Raises:
        BadOption: no channel varies, or a bandwidth of 0.
    """
    fitted_FC = _first(given[2] if len(given) > 2 else given[0])
    centring = engine.cache.get_or_create(
        ("centring", IdentityKey(fitted_FC)), lambda: Affine(rows.central_point(fitted_FC)), _bytes
    )
    # Products depend on the origin: where the kernel is one of them, features stay where they are.
    raw = Scaled("raw", UNCHANGED if options.kernel in WITHOUT_BANDWIDTH else centring)
    if len(given) > 2 and fitted_FC.shape[0] < 2:
        yield replace(raw, absent_reason=_ONE_ROW)
        yield replace(raw, name="standardised", absent_reason=_ONE_ROW)
        return
    standardising = None
    if len(given) > 2:
        key = ("standardising", IdentityKey(fitted_FC))
        standardising = engine.cache.get_or_create(
            key, lambda: _standardising(fitted_FC, layer, engine.context), _bytes
        )
    left_out = 0 if standardising is None else int((~standardising.channel_mask_C).sum())  # type: ignore[operator]
    yield replace(raw, sigma=_sigma(given, raw.affine, layer, options, engine), left_out=left_out)
    if standardising is not None:
        sigma = _sigma(given, standardising, layer, options, engine)
        yield Scaled("standardised", standardising, sigma, left_out)


def _standardising(reference_FC: FeatureArray, layer: str, context: WorkContext) -> Affine:
    """(x − mean)/SD of the reference; channels with SD under 1e-6 of the median SD are left out."""
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


def _first(features: Features) -> FeatureArray:
    """Features at hand; of a stream its first rows, near which its others are centred well enough."""
    if isinstance(features, np.ndarray):
        return features
    return to_numpy(features.read(0, min(features.rows, _CENTRING_ROWS)))


def _sigma(
    given: Sequence[Features], affine: Affine, layer: str, options: ComparisonOptions, engine: ComputeConfig
) -> float:
    """The bandwidth by the rule that was asked for, in units of the scaled features."""
    if options.kernel in WITHOUT_BANDWIDTH:
        return 0.0
    if options.fixed_sigma is not None:
        return options.fixed_sigma
    fitted = given[:2] if options.bandwidth == "pooled_median" else given[2:]
    return engine.cache.get_or_create(
        ("median", IdentityKey(affine), *map(IdentityKey, fitted)),
        lambda: bandwidths.median_distance(drawn(fitted, affine, engine), layer, engine.context),
        lambda _: _FLOAT_BYTES,
    )


def drawn(given: Sequence[Features], affine: Affine, engine: ComputeConfig) -> rows.Rows:
    """The rows that bandwidths are taken from: all of them, or a sample of many, in float64."""
    ends = np.cumsum([0, *(shape_of(features)[0] for features in given)])
    selected = bandwidths.sample_rows(int(ends[-1]))
    parts: list[FeatureArray] = []
    for features, start, end in zip(given, ends[:-1], ends[1:], strict=True):
        if selected is None:
            own = features if isinstance(features, np.ndarray) else to_numpy(features.read(0, features.rows))
        else:
            order = selected[(selected >= start) & (selected < end)] - start
            own = features[order] if isinstance(features, np.ndarray) else to_numpy(read_rows(features, order.tolist()))
        parts.append(own)
    return rows.prepare([(own, None) for own in parts], affine, "float64", torch.device(engine.device))


def _bytes(affine: Affine) -> int:
    return affine.nbytes
