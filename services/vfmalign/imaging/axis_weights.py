"""Weights for resampling along one axis. Each output is a weighted sum of a few neighbouring inputs, stored as a band.

Legend: O output and I input positions along one axis; B inputs per band; L distances between two inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

TRUNCATE_SIGMAS = 3.0
"""Radius of the Gaussian low-pass in standard deviations."""
SNAP_VOXELS = 1e-4
"""Positions this close to a voxel's centre are moved onto the centre.

Affines carry rounding errors of 1e-16 to 1e-6 voxels (they are products, inverses and float32 headers), which would
give a neighbour a tiny weight. Zeros beside tissue would then become nonzero, and normalisation over nonzero voxels
would count the background as signal.
"""

BandedProduct: TypeAlias = tuple[Tensor, slice, slice]


@dataclass(frozen=True, eq=False)
class AxisWeights:
    """Weights that resample one axis. Memory use is proportional to the number of outputs times the band's width.

    Attributes:
        first_O: for each output, the index of the first input of its band, from 0 to `size − B`.
        weights_OB: float32, non-negative. If an output lies outside the inputs, all its weights are 0.
        size: number of inputs.
    """

    first_O: NDArray[np.intp]
    weights_OB: NDArray[np.float32]
    size: int

    def __len__(self) -> int:
        return len(self.first_O)

    @property
    def width(self) -> int:
        """Maximum number B of inputs that contribute to an output."""
        return int(self.weights_OB.shape[1])

    @classmethod
    def identity(cls, size: int) -> AxisWeights:
        """Returns weights that copy every input unchanged."""
        return cls(np.arange(size), np.ones((size, 1), np.float32), size)

    @classmethod
    def interpolate(cls, size: int, size_out: int, step: float, start: float, sigma: float) -> AxisWeights:
        """Returns weights for linear interpolation after a Gaussian low-pass.

        Between the centre and the outer face of the first or last voxel, the output equals the value of this voxel.
        Beyond the outer face, all weights are 0.

        Args:
            size: number of inputs.
            size_out: number of outputs.
            step: distance between two outputs, in input voxels.
            start: position of the first output, in input voxels.
            sigma: standard deviation of the low-pass, in input voxels. Boundaries follow `ndimage`'s mode `nearest`.
        """
        position = get_positions(size_out, step, start)
        within = is_within_extent(position, size)
        position = np.clip(position, 0, size - 1)
        below = position.astype(np.intp)
        fraction = position - below
        kernel = _gaussian_kernel(sigma)
        radius = len(kernel) // 2
        taps = (1.0 - fraction[:, None]) * np.append(kernel, 0.0) + fraction[:, None] * np.insert(kernel, 0, 0.0)
        inputs = np.clip(below[:, None] + np.arange(-radius, radius + 2), 0, size - 1)
        width = min(size, taps.shape[1])
        first_O = np.clip(below - radius, 0, size - width)
        weights_OB = np.zeros((size_out, width))
        np.add.at(weights_OB, (np.arange(size_out)[:, None], inputs - first_O[:, None]), taps)
        weights_OB[~within] = 0.0
        return cls(first_O, weights_OB.astype(np.float32), size)

    def get_window(self, start: int, count: int) -> AxisWeights:
        """Returns the weights of `count` outputs, beginning at output `start`.

        Outputs that do not exist get weights of 0.
        """
        outputs = np.arange(start, start + count)
        inside = (outputs >= 0) & (outputs < len(self))
        outputs = np.clip(outputs, 0, len(self) - 1)
        return AxisWeights(self.first_O[outputs], self.weights_OB[outputs] * inside[:, None], self.size)

    def split_products(self, outputs_per_product: int) -> Iterator[BandedProduct]:
        """Splits the weights into dense matrices of a few outputs each.

        Yields:
            For each block of outputs: the weights, the range of inputs that the weights refer to, and the range of
                outputs.
        """
        for start in range(0, len(self), outputs_per_product):
            outputs = slice(start, min(start + outputs_per_product, len(self)))
            weights, band = self._get_block(outputs)
            yield torch.from_numpy(weights), band, outputs

    def sum_inputs(self) -> NDArray[np.float64]:
        """Returns, for each input, the sum of its weights over all outputs."""
        inputs_OB = self.first_O[:, None] + np.arange(self.width)
        sums_I = np.bincount(inputs_OB.ravel(), self.weights_OB.ravel(), minlength=self.size)
        return sums_I.astype(np.float64, copy=False)

    def compute_gram(self) -> NDArray[np.float64]:
        """Returns the products of two inputs' weights, summed over all outputs.

        Entry (i, l) is for the inputs i and i − l.
        """
        weights_OB = self.weights_OB.astype(np.float64)
        gram_IL = np.zeros((self.size, self.width))
        for lag in range(self.width):
            for place in range(lag, self.width):
                products_O = weights_OB[:, place] * weights_OB[:, place - lag]
                gram_IL[:, lag] += np.bincount(self.first_O + place, products_O, minlength=self.size)
        return gram_IL

    def get_contributors(self) -> Iterator[tuple[int, ...]]:
        """Yields, for each output, the inputs whose weight is not zero."""
        for first, weights_B in zip(self.first_O.tolist(), self.weights_OB, strict=True):
            yield tuple((first + np.flatnonzero(weights_B)).tolist())

    def _get_block(self, outputs: slice) -> tuple[NDArray[np.float32], slice]:
        """Dense weights of a block of outputs, and the range of inputs with a weight in it."""
        first_O, weights_OB = self.first_O[outputs], self.weights_OB[outputs]
        low = int(first_O.min())
        block = np.zeros((len(first_O), int(first_O.max()) + self.width - low), np.float32)
        block[np.arange(len(first_O))[:, None], first_O[:, None] - low + np.arange(self.width)] = weights_OB
        used = np.flatnonzero(block.any(axis=0))
        band = slice(used[0], used[-1] + 1) if len(used) else slice(0, 1)
        return np.ascontiguousarray(block[:, band]), slice(int(low + band.start), int(low + band.stop))


def get_positions(count: int, step: float, start: float) -> NDArray[np.float64]:
    """Returns positions along an axis. Positions within `SNAP_VOXELS` of a voxel's centre become this centre."""
    return snap(start + step * np.arange(count, dtype=np.float64))


def snap(position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Moves positions within `SNAP_VOXELS` of a voxel's centre onto this centre."""
    centre = np.rint(position)
    return np.where(np.abs(position - centre) <= SNAP_VOXELS, centre, position)


def is_within_extent(position: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
    """Returns whether positions lie within a source axis, up to the outer faces of its voxels (1 % tolerance)."""
    return (position >= -0.51) & (position <= size - 0.49)


def _gaussian_kernel(sigma: float) -> NDArray[np.float64]:
    """The low-pass of `ndimage.gaussian_filter`: its response to an impulse."""
    radius = int(TRUNCATE_SIGMAS * sigma + 0.5)
    impulse = np.zeros(2 * radius + 1)
    impulse[radius] = 1.0
    if not radius:
        return impulse
    return np.asarray(ndimage.gaussian_filter1d(impulse, sigma, mode="constant", truncate=TRUNCATE_SIGMAS))
