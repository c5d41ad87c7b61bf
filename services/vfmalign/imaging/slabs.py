"""Slabs: a few slices of a volume, so that what is done to a voxel is done in the processor's cache.

A channel of an input at full size is 17 MB, and every pass through it would come from memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

SLICES = 4
"""Of a slab: 1 MB of a full-size channel. With fewer, threads spend their time on waiting for Python's lock."""


def slabs(volume_DHW: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Views of an array in memory, slab after slab along D."""
    for first in range(0, len(volume_DHW), SLICES):
        yield volume_DHW[first : first + SLICES]
