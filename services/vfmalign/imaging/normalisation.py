"""Normalises a study's channels by z-scores, quantiles or a window: computes statistics of the signal and applies them.

Legend: C channels (modalities), D slices, H rows, W columns, K planes (slices are weighted sums of planes), N voxels of
a plane.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vfmalign.core.domain.errors import BadVolume
from vfmalign.imaging.axis_weights import AxisWeights

CONTRAST_TOLERANCE = 1e-6
"""A channel with an SD below this share of its mean is constant up to rounding."""
SLAB_SLICES = 4
"""Slices processed together. Four slices of a full-size channel are 1 MB and stay in the cache, whereas the whole
channel (17 MB) would be read from memory in every pass. With fewer slices, threads wait for the GIL more often.
"""


@dataclass(frozen=True)
class Moments:
    """Mean and population SD of a signal over its nonzero voxels.

    Attributes:
        count: number of nonzero voxels.
        mean, std: mean and SD; 0 if all voxels are zero.
    """

    count: int
    mean: float
    std: float

    @property
    def has_contrast(self) -> bool:
        """Whether the values differ by more than rounding."""
        return self.std > CONTRAST_TOLERANCE * abs(self.mean)


@dataclass(frozen=True, eq=False)
class Scale:
    """Normalisation: (signal − mean) / SD for z-scores, (signal − low) / (high − low) for quantiles and windows.

    Attributes:
        mean_C, std_C: float32, mean and SD, or low and high − low. A channel without contrast has the values 0 and 1. A
            window's signal is measured from its lower bound, so its `low` is 0.
        preserves_zeros: whether voxels without signal stay 0. If False, voxels without signal become −mean / SD.
        clipped_C: bool, channels whose values are clipped to [0, 1]; None if there are none.
    """

    mean_C: Tensor
    std_C: Tensor
    preserves_zeros: bool
    clipped_C: Tensor | None = None

    def apply_(self, signal_CDHW: Tensor) -> Tensor:
        """Overwrites a (C, D, H, W) signal with its normalised values."""
        clipped_C = torch.zeros(len(signal_CDHW), dtype=torch.bool) if self.clipped_C is None else self.clipped_C
        scales = zip(signal_CDHW.numpy(), self.mean_C.numpy(), self.std_C.numpy(), clipped_C.tolist(), strict=True)
        for channel_DHW, mean, std, clipped in scales:
            for slab_DHW in _slabs(channel_DHW):
                centred_DHW = _subtract_mean(slab_DHW, mean) if self.preserves_zeros else slab_DHW - mean
                np.divide(centred_DHW, std, out=slab_DHW)
                if clipped:
                    np.clip(slab_DHW, 0.0, 1.0, out=slab_DHW)
        return signal_CDHW

    def invert(self, scores_CDHW: Tensor) -> Tensor:
        """Recovers the signal from normalised values. This inverts `apply_`, except where `apply_` clipped values."""
        mean, std = (values_C[:, None, None, None] for values_C in (self.mean_C, self.std_C))
        signal_CDHW = scores_CDHW * std + mean
        return torch.where(scores_CDHW == 0, 0.0, signal_CDHW) if self.preserves_zeros else signal_CDHW


def _subtract_mean(slab_DHW: NDArray[np.float32], mean: np.float32) -> NDArray[np.float32]:
    """The slab with the mean subtracted where it is nonzero.

    Subtracting a mask scaled by the mean is several times faster than indexing the nonzero voxels.
    """
    nonzero_DHW: NDArray[np.bool_] = slab_DHW != 0
    if nonzero_DHW.all():
        return slab_DHW - mean
    mean_DHW = nonzero_DHW.astype(np.float32)
    mean_DHW *= mean
    return np.subtract(slab_DHW, mean_DHW, out=mean_DHW)


def compute_moments(planes_KHW: Tensor, weights: AxisWeights | None = None) -> Moments:
    """Computes the moments of a channel whose slices are weighted sums of planes. The slices are not formed.

    The sum over all slices is linear in the planes: Σ_d Σ_n Σ_k w_dk p_kn = Σ_k (Σ_d w_dk) (Σ_n p_kn). The sum of
    squares is Σ_jk (WᵀW)_jk ⟨p_j, p_k⟩, where WᵀW is banded, because only neighbouring planes contribute to a slice.
    Products are accumulated in float64. The width of the band determines how many planes are converted at a time.

    Args:
        planes_KHW: float32.
        weights: for each slice, the weights of the planes. They are not negative. A voxel of a slice is therefore zero
            only if it is zero in all planes that contribute to the slice. If `weights` is None, the planes
            are the slices.
    """
    planes_KN = planes_KHW.flatten(1)
    weights = AxisWeights.identity(len(planes_KN)) if weights is None else weights
    count = _count_nonzero(planes_KN.numpy(), weights)
    if not count:
        return Moments(0, 0.0, 0.0)
    weight_sum_K, gram_KL = weights.sum_inputs(), weights.compute_gram()
    total = squares = 0.0
    # The current plane and those before it that share a slice with it, newest first.
    recent: deque[Tensor] = deque(maxlen=int(np.flatnonzero(gram_KL.any(axis=0)).max(initial=0)) + 1)
    for plane, values_N in enumerate(planes_KN):
        recent.appendleft(values_N.double())
        total += weight_sum_K[plane] * float(recent[0].sum())
        for lag, other_N in enumerate(recent):
            multiplicity = 2.0 if lag else 1.0  # WᵀW is symmetric: each pair of different planes counts twice
            squares += multiplicity * gram_KL[plane, lag] * float(torch.dot(recent[0], other_N))
    mean = total / count
    return Moments(count, mean, max(0.0, squares / count - mean**2) ** 0.5)


def _count_nonzero(planes_KN: NDArray[np.float32], weights: AxisWeights) -> int:
    """Number of voxels over all slices with at least one contributing plane that is nonzero.

    Slices to which the same planes contribute have the same mask, which is computed once.
    """
    nonzero_KN = planes_KN != 0
    slices = Counter(weights.get_contributors())
    return sum(
        count * int(np.count_nonzero(reduce(np.logical_or, (nonzero_KN[plane] for plane in planes))))
        for planes, count in slices.items()
        if planes
    )


def scale_from_moments(channels: Iterable[Moments]) -> Scale:
    """Scales by the mean and SD of each channel over its nonzero voxels. Zeros stay zero."""
    pairs = [(moments.mean, moments.std) if moments.has_contrast else (0.0, 1.0) for moments in channels]
    mean_C, std_C = torch.tensor(pairs, dtype=torch.float32).unbind(1)
    return Scale(mean_C, std_C, preserves_zeros=True)


def scale_from_gland(signal_CDHW: Tensor, gland_DHW: Tensor) -> Scale:
    """Scales by the mean and population SD of each channel inside the gland. Zeros are shifted as well."""
    inside_CN = signal_CDHW[:, gland_DHW > 0].double()
    std_C = inside_CN.std(1, correction=0)
    varies_C = std_C > 0
    mean_C = torch.where(varies_C, inside_CN.mean(1), 0.0)
    return Scale(mean_C.float(), torch.where(varies_C, std_C, 1.0).float(), preserves_zeros=False)


def scale_from_quantiles(
    channels: Iterable[Tensor], quantiles: tuple[float, float], names: Sequence[str], subject: str
) -> Scale:
    """Maps two quantiles of each channel to 0 and 1, and clips to [0, 1].

    Quantiles are computed over all voxels of a channel, including zeros, as in brainchop
    (github.com/neuroneural/brainchop). Linear interpolation between order statistics is done in float64. A channel that
    is 0 everywhere, because an input transform hid it, keeps its units.

    Args:
        channels: (D, H, W) channels before cropping. The channels are read one after the other.
        quantiles: the lower and the upper quantile, in [0, 1].
        names: names of the channels in error messages.
        subject: the study's name in error messages.

    Raises:
        BadVolume: both quantiles of a channel are equal.
    """
    pairs, clipped = [], []
    for channel_DHW, name in zip(channels, names, strict=True):
        values_N = channel_DHW.double().numpy().ravel()
        low, high = map(float, np.quantile(values_N, quantiles, overwrite_input=True))
        hidden = low == high == 0.0 and not bool(channel_DHW.any())
        if low == high and not hidden:
            raise BadVolume(
                f"{name} has the same value at its {quantiles[0]:.0%} and {quantiles[1]:.0%} quantile",
                subject=subject,
                remedy="crop the field of view to the body, or choose a model with another normalisation",
            )
        pairs.append((0.0, 1.0) if hidden else (low, high - low))
        clipped.append(not hidden)
    low_C, range_C = torch.tensor(pairs, dtype=torch.float32).unbind(1)
    return Scale(low_C, range_C, preserves_zeros=False, clipped_C=torch.tensor(clipped))


def scale_from_window(window: tuple[float, float], channels: int) -> Scale:
    """Maps the bounds of a window to 0 and 1, and clips to [0, 1].

    The signal is measured from the lower bound, so padding and hidden channels have the value of the lower bound.
    """
    width_C = torch.full((channels,), window[1] - window[0])
    clipped_C = torch.ones(channels, dtype=torch.bool)
    return Scale(torch.zeros(channels), width_C, preserves_zeros=False, clipped_C=clipped_C)


def _slabs(volume_DHW: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Iterates over views of consecutive slabs along D."""
    for first in range(0, len(volume_DHW), SLAB_SLICES):
        yield volume_DHW[first : first + SLAB_SLICES]
