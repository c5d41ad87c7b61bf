"""One layer's features as they are and standardised, each with its bandwidth. Knows nothing of statistics.

Legend: N and M rows of x and y, F of the sample that fixes centre, scale and bandwidth, C channels, K kept channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vfmalign.mmd import reference
from vfmalign.mmd.engine import IntArray
from vfmalign.mmd.samples import Sample

_ONE_ROW = "the reference has one row; a scale and a bandwidth need at least two"


@dataclass(frozen=True)
class Scaled:
    """Centred float64 features of one layer in one scaling, rows of a group beside each other.

    Attributes:
        name: `raw` or `standardised`.
        fitted_FK: the reference, or x without one.
        sigma: bandwidth; 0 where `absent_reason` says why there is none.
        left_out: channels that standardising leaves out.
    """

    name: str
    x_NK: Tensor  # noqa: N815
    y_MK: Tensor  # noqa: N815
    fitted_FK: Tensor  # noqa: N815
    sigma: float
    left_out: int = 0
    absent_reason: str = ""


def scalings(
    x_NC: Tensor, y_MC: Tensor, reference_FC: Tensor | None, layer: str, sigma_of: Callable[[Tensor], float]
) -> Iterator[Scaled]:
    """The layer raw and, with a reference, standardised by it.

    A reference of one row gives neither scale nor bandwidth: both scalings then come back with the reason.

    Args:
        x_NC: first sample, float64.
        y_MC: second sample, float64.
        reference_FC: sample that fixes centre, scale and bandwidth, or None.
        layer: how errors name it.
        sigma_of: bandwidth from that sample in the scaling at hand.
    """
    fitted_FC = x_NC if reference_FC is None else reference_FC
    centre_C = fitted_FC.mean(dim=0)
    raw = Scaled("raw", x_NC - centre_C, y_MC - centre_C, fitted_FC - centre_C, 0.0)
    if reference_FC is not None and reference_FC.shape[0] < 2:
        yield replace(raw, absent_reason=_ONE_ROW)
        yield replace(raw, name="standardised", absent_reason=_ONE_ROW)
        return
    scale = None if reference_FC is None else reference.scale_of(reference_FC, layer)
    yield replace(raw, sigma=sigma_of(raw.fitted_FK), left_out=scale.left_out if scale else 0)
    if scale is not None:
        del raw
        fitted_FK = scale.apply(fitted_FC)
        x_NK, y_MK = scale.apply(x_NC), scale.apply(y_MC)
        yield Scaled("standardised", x_NK, y_MK, fitted_FK, sigma_of(fitted_FK), scale.left_out)


def to_tensor(sample: Sample, layer: str, order: IntArray | None, device: torch.device) -> Tensor:
    """One layer's features in float64 on the device, rows in the order given."""
    features_NC = sample.layers[layer]
    return torch.from_numpy(np.array(features_NC if order is None else features_NC[order], dtype=np.float64)).to(device)
