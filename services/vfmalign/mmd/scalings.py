"""One layer's features as they are and standardised: centre, scale and bandwidth of each. Knows nothing of statistics.

Scale and bandwidth come from a reference, so that they do not grow with the shift they should measure.

Legend: C channels as given, K channels kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from vfmalign.core.errors import BadOption
from vfmalign.mmd import bandwidths, rows
from vfmalign.mmd.kept import Same
from vfmalign.mmd.kernels import KERNELS, WITHOUT_BANDWIDTH, Kernel
from vfmalign.mmd.results import Engine, Options
from vfmalign.mmd.rows import UNCHANGED, Affine
from vfmalign.mmd.samples import FeatureArray

# A channel with less than this share of the median SD carries rounding, which scaling would blow up.
SMALLEST_RELATIVE_SD = 1e-6
_FLOAT_BYTES = 8
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

    def kernel(self, family: str, channels: int) -> Kernel:
        """The kernel at this bandwidth."""
        return KERNELS[family](self.sigma, channels)


def scalings(given: Sequence[FeatureArray], layer: str, options: Options, engine: Engine) -> Iterator[Scaled]:
    """The layer raw and, with a reference, standardised by it.

    A reference of one row gives neither scale nor bandwidth: both scalings then come back with the reason.

    Args:
        given: features of x, y and perhaps the reference.
        layer: how errors name it.
        options: kernel and rule of the bandwidth.
        engine: where to compute.

    Raises:
        BadOption: no channel varies, or a bandwidth of 0.
    """
    fitted_FC = given[2] if len(given) > 2 else given[0]
    centring = engine.kept.get(("centring", Same(fitted_FC)), lambda: Affine(rows.mean(fitted_FC)), _bytes)
    # Products depend on the origin: where the kernel is one of them, features stay where they are.
    raw = Scaled("raw", UNCHANGED if options.kernel in WITHOUT_BANDWIDTH else centring)
    if len(given) > 2 and fitted_FC.shape[0] < 2:
        yield replace(raw, absent_reason=_ONE_ROW)
        yield replace(raw, name="standardised", absent_reason=_ONE_ROW)
        return
    standardising = None
    if len(given) > 2:
        key = ("standardising", Same(fitted_FC))
        standardising = engine.kept.get(key, lambda: _standardising(fitted_FC, centring.centre_C, layer), _bytes)
    left_out = 0 if standardising is None else int((~standardising.kept_C).sum())  # type: ignore[operator]
    yield replace(raw, sigma=_sigma(given, raw.affine, layer, options, engine), left_out=left_out)
    if standardising is not None:
        sigma = _sigma(given, standardising, layer, options, engine)
        yield Scaled("standardised", standardising, sigma, left_out)


def _standardising(reference_FC: FeatureArray, mean_C: rows.FloatArray | None, layer: str) -> Affine:
    """(x − mean)/SD of the reference; channels with SD under 1e-6 of the median SD are left out."""
    mean_C = rows.mean(reference_FC) if mean_C is None else mean_C
    sd_C = rows.standard_deviation(reference_FC, mean_C)
    kept_C = (sd_C >= SMALLEST_RELATIVE_SD * float(np.median(sd_C))) & (reference_FC != reference_FC[:1]).any(axis=0)
    if not kept_C.any():
        raise BadOption(
            f"no channel of layer `{layer}` varies over the reference",
            field="reference",
            remedy="use cases that differ",
        )
    return Affine(mean_C, sd_C, kept_C)


def _sigma(given: Sequence[FeatureArray], affine: Affine, layer: str, options: Options, engine: Engine) -> float:
    """The bandwidth by the rule that was asked for, in units of the scaled features."""
    if options.kernel in WITHOUT_BANDWIDTH:
        return 0.0
    if options.fixed_sigma is not None:
        return options.fixed_sigma
    fitted = given[:2] if options.bandwidth == "pooled_median" else given[2:]
    return engine.kept.get(
        ("median", Same(affine), *map(Same, fitted)),
        lambda: bandwidths.median(drawn(fitted, affine, engine), layer, engine.between_tiles),
        lambda _: _FLOAT_BYTES,
    )


def drawn(given: Sequence[FeatureArray], affine: Affine, engine: Engine) -> rows.Rows:
    """The rows that bandwidths are taken from: all of them, or a sample of many, in float64."""
    wanted = bandwidths.sampled(sum(int(features_NC.shape[0]) for features_NC in given))
    if wanted is None:
        return rows.prepare([(features_NC, None) for features_NC in given], affine, "float64", engine.device)
    ends = np.cumsum([0, *(features_NC.shape[0] for features_NC in given)])
    parts = [
        (features_NC, wanted[(wanted >= start) & (wanted < end)] - start)
        for features_NC, start, end in zip(given, ends[:-1], ends[1:], strict=True)
    ]
    return rows.prepare(
        [(features_NC[order], None) for features_NC, order in parts], affine, "float64", torch.device(engine.device)
    )


def _bytes(affine: Affine) -> int:
    return affine.nbytes
