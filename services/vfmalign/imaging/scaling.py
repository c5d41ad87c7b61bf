"""Z-scores of a study's channels: what is measured of a signal, and how it is applied.

Knows arrays and statistics; nothing of grids, files or models.

Legend: C channels (modalities), D slices, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vfmalign.imaging.slabs import slabs

FLAT = 1e-6
"""A channel whose SD is under this share of its mean is one value, and rounding."""


@dataclass(eq=False)
class Moments:
    """Mean and population SD of a signal over its voxels that are not zero.

    Slabs are added one by one, by the formula of Chan, Golub and LeVeque ("Algorithms for Computing the Sample
    Variance", The American Statistician 37, 1983).

    Attributes:
        seen: voxels that are not zero.
        mean: theirs.
        squares: their squared distances from the mean, summed.
    """

    seen: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, slab_DHW: NDArray[np.float32]) -> None:
        """Counts a slab in."""
        shown_DHW = slab_DHW != 0
        seen = int(np.count_nonzero(shown_DHW))  # numpy's count of float32 takes five times as long
        if not seen:
            return
        mean = np.float32(float(torch.from_numpy(slab_DHW).sum()) / seen)  # numpy's sum takes three times as long
        from_mean_N = _less(slab_DHW, mean, shown_DHW).ravel()
        squares = float(np.einsum("n,n->", from_mean_N, from_mean_N))  # one pass, to 1e-6; BLAS would take threads
        total, step = self.seen + seen, float(mean) - self.mean
        self.squares += squares + step**2 * self.seen * seen / total
        self.mean += step * seen / total
        self.seen = total

    @property
    def spread(self) -> float:
        """The SD."""
        return float((self.squares / max(1, self.seen)) ** 0.5)

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

    mean_C: Tensor  # noqa: N815
    spread_C: Tensor  # noqa: N815
    zeros_stay: bool

    def apply_(self, signal_CDHW: Tensor) -> Tensor:
        """Overwrites a signal by its z-scores."""
        scales = zip(signal_CDHW.numpy(), self.mean_C.numpy(), self.spread_C.numpy(), strict=True)
        for channel_DHW, mean, spread in scales:
            for slab_DHW in slabs(channel_DHW):
                from_mean_DHW = _less(slab_DHW, mean, slab_DHW != 0) if self.zeros_stay else slab_DHW - mean
                np.divide(from_mean_DHW, spread, out=slab_DHW)
        return signal_CDHW

    def signal(self, scores_CDHW: Tensor) -> Tensor:
        """The signal behind z-scores: the inverse of `apply_`."""
        mean, spread = (values_C[:, None, None, None] for values_C in (self.mean_C, self.spread_C))
        signal_CDHW = scores_CDHW * spread + mean
        return torch.where(scores_CDHW == 0, 0.0, signal_CDHW) if self.zeros_stay else signal_CDHW


def _less(slab_DHW: NDArray[np.float32], mean: np.float32, shown_DHW: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The slab less its mean where it shows something; several times as fast as picking those voxels out."""
    if shown_DHW.all():
        return slab_DHW - mean
    mean_DHW = shown_DHW.astype(np.float32)
    mean_DHW *= mean
    return np.subtract(slab_DHW, mean_DHW, out=mean_DHW)


def moments_of(channel_DHW: Tensor) -> Moments:
    """Those of a whole channel."""
    moments = Moments()
    for slab_DHW in slabs(channel_DHW.numpy()):
        moments.add(slab_DHW)
    return moments


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
