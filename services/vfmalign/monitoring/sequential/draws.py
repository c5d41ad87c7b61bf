"""Random numbers that depend only on the seed, the epoch, their purpose and a number.

The numbers come from the counter-based generator Philox (Salmon et al., SC 2011). The module uses the raw output of
this generator, because that output is the same in all versions of numpy. After a restart, a monitor therefore continues
with the same draws.

Legend: the axes of arrays are B subsets and W rows of a subset.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Purpose(IntEnum):
    """Purpose of random numbers. The value is w for blocks of w rows, and `POOL` + w for the pools of such blocks."""

    SPLIT = 1
    TIES = 2
    CHANNELS = 3
    BLOCKS_OF_4 = 4
    FIRST = 5
    BLOCKS_OF_16 = 16
    POOL = 32


@dataclass(frozen=True)
class Draws:
    """The draws of one epoch of a monitor.

    Attributes:
        seed: seed of the monitor, 0 to 2⁶³ − 1.
        epoch: number of the epoch, starting at 1.
    """

    seed: int
    epoch: int

    def draw_uniforms(self, purpose: int, number: int, count: int) -> NDArray[np.float64]:
        """Draws numbers in [0, 1).

        Args:
            purpose: purpose of the numbers.
            number: number of the row in the epoch.
            count: how many numbers to draw.
        """
        key, counter = np.array([self.seed, self.epoch], np.uint64), np.array([0, 0, purpose, number], np.uint64)
        raw = np.random.Philox(key=key, counter=counter).random_raw(count)
        uniforms: NDArray[np.float64] = np.asarray(raw >> np.uint64(11), np.float64) * 2.0**-53
        return uniforms


def choose_subset(uniforms: NDArray[np.float64], size: int) -> NDArray[np.intp]:
    """Returns the sorted indices of the `size` smallest numbers.

    These indices are a uniform random subset of all indices.
    """
    if size >= len(uniforms):
        return np.arange(len(uniforms))
    return np.sort(np.argpartition(uniforms, size)[:size])


def choose_subsets(uniforms_WB: NDArray[np.float64], members: int) -> NDArray[np.intp]:
    """Draws B independent uniform W-subsets of `members` indices, [W, B] (Floyd's algorithm, CACM 30 (1987), 754)."""
    size, subsets = uniforms_WB.shape
    chosen_WB = np.empty((size, subsets), np.intp)
    for index in range(size):
        last = members - size + index
        candidate_B = (uniforms_WB[index] * (last + 1)).astype(np.intp)
        is_taken_B = (chosen_WB[:index] == candidate_B).any(axis=0)
        chosen_WB[index] = np.where(is_taken_B, last, candidate_B)
    return chosen_WB
