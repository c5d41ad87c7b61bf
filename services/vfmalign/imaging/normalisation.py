"""Z-scores of a study's channels: what is measured of a signal, and how it is applied.

Knows arrays and statistics; nothing of grids, files or models.

Legend: C channels (modalities), D slices, H rows, W columns, K planes that slices are sums of, N voxels of a plane.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FLAT = 1e-6
"""A channel whose SD is under this share of its mean is one value, and rounding."""


SLAB_SLICES = 4
"""Slices processed together: 1 MB of a full-size channel, which stays in the cache. Of the channel, 17 MB, every pass
would come from memory. With fewer slices threads wait for Python's lock instead."""


@dataclass(frozen=True)
class Moments:
    """Mean and population SD of a signal over its voxels that are not zero.

    Attributes:
        seen: voxels that are not zero.
        mean, spread: 0 where there are none.
    """

    seen: int
    mean: float
    spread: float

    @property
    def varies(self) -> bool:
        """Whether there is more than one value, and rounding."""
        return self.spread > FLAT * abs(self.mean)


@dataclass(frozen=True, eq=False)
class Scale:
    """Z-scores of channels: (signal − mean) / spread, of voxels that are not zero alone where `zeros_stay`.

    Attributes:
        mean_C, spread_C: float32; 0 and 1 for a channel without contrast.
    """

    mean_C: Tensor
    spread_C: Tensor
    zeros_stay: bool

    def apply_(self, signal_CDHW: Tensor) -> Tensor:
        """Overwrites a signal by its z-scores."""
        scales = zip(signal_CDHW.numpy(), self.mean_C.numpy(), self.spread_C.numpy(), strict=True)
        for channel_DHW, mean, spread in scales:
            for slab_DHW in _slabs(channel_DHW):
                from_mean_DHW = _less(slab_DHW, mean) if self.zeros_stay else slab_DHW - mean
                np.divide(from_mean_DHW, spread, out=slab_DHW)
        return signal_CDHW

    def signal(self, scores_CDHW: Tensor) -> Tensor:
        """The signal behind z-scores: the inverse of `apply_`."""
        mean, spread = (values_C[:, None, None, None] for values_C in (self.mean_C, self.spread_C))
        signal_CDHW = scores_CDHW * spread + mean
        return torch.where(scores_CDHW == 0, 0.0, signal_CDHW) if self.zeros_stay else signal_CDHW


def _less(slab_DHW: NDArray[np.float32], mean: np.float32) -> NDArray[np.float32]:
    """The slab less its mean where it shows something; several times as fast as picking those voxels out."""
    shown_DHW: NDArray[np.bool_] = slab_DHW != 0
    if shown_DHW.all():
        return slab_DHW - mean
    mean_DHW = shown_DHW.astype(np.float32)
    mean_DHW *= mean
    return np.subtract(slab_DHW, mean_DHW, out=mean_DHW)


def moments_of(planes_KHW: Tensor, weights_DK: Tensor | None = None) -> Moments:
    """Those of a channel whose slices are weighted sums of planes; the slices themselves are not needed.

    Their sum is linear in the planes, and the sum of their squares in the planes' products, which are float64.

    Args:
        planes_KHW: float32.
        weights_DK: none negative; a voxel is zero where all that it is a sum of are. None: the planes are the slices.
    """
    planes_KN = planes_KHW.flatten(1)
    weights = np.eye(len(planes_KN)) if weights_DK is None else weights_DK.double().numpy()
    seen = _not_zero(planes_KN.numpy(), weights)
    if not seen:
        return Moments(0, 0.0, 0.0)
    times_K, times_KK = weights.sum(0), weights.T @ weights
    total = squares = 0.0
    recent: deque[Tensor] = deque(maxlen=_reach(times_KK) + 1)
    for plane, values_N in enumerate(planes_KN):
        recent.appendleft(values_N.double())
        total += times_K[plane] * float(recent[0].sum())
        for back, others_N in enumerate(recent):
            both_orders = 2.0 if back else 1.0
            squares += both_orders * times_KK[plane, plane - back] * float(torch.dot(recent[0], others_N))
    mean = total / seen
    return Moments(seen, mean, max(0.0, squares / seen - mean**2) ** 0.5)


def _reach(times_KK: NDArray[np.float64]) -> int:
    """How far apart two planes may lie that count in one slice."""
    first, second = np.nonzero(times_KK)
    return int(np.max(first - second, initial=0))


def _not_zero(planes_KN: NDArray[np.float32], weights_DK: NDArray[np.float64]) -> int:
    """Voxels of all slices that have a plane in which they are not zero."""
    shown_KN = planes_KN != 0
    slices = Counter(tuple(np.flatnonzero(weights_K)) for weights_K in weights_DK)
    return sum(
        count * int(np.count_nonzero(reduce(np.logical_or, (shown_KN[plane] for plane in planes))))
        for planes, count in slices.items()
        if planes
    )


def scale_of(channels: Iterable[Moments]) -> Scale:
    """Mean and SD of each channel over its voxels that are not zero; zeros stay zero."""
    found = [(one.mean, one.spread) if one.varies else (0.0, 1.0) for one in channels]
    mean_C, spread_C = torch.tensor(found, dtype=torch.float32).unbind(1)
    return Scale(mean_C, spread_C, zeros_stay=True)


def scale_in_gland(signal_CDHW: Tensor, gland_DHW: Tensor) -> Scale:
    """Mean and population SD of each channel inside the gland; what was zero is moved as well."""
    inside_CN = signal_CDHW[:, gland_DHW > 0].double()
    spread_C = inside_CN.std(1, correction=0)
    varies_C = spread_C > 0
    mean_C = torch.where(varies_C, inside_CN.mean(1), 0.0)
    return Scale(mean_C.float(), torch.where(varies_C, spread_C, 1.0).float(), zeros_stay=False)


def _slabs(volume_DHW: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Views of an array, slab after slab along D."""
    for first in range(0, len(volume_DHW), SLAB_SLICES):
        yield volume_DHW[first : first + SLAB_SLICES]
