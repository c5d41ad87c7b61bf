"""Streams of seeded noise, as long as a measurement needs and never stored."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

# Noise is drawn in blocks of this many rows whatever rows are read, so that a row's value does not depend on the reads.
NOISE_ROWS = 4096


class GaussianRows:
    """Seeded rows of N(mean, sd²) noise, drawn when they are read: a `RowStream` of the MMD engine.

    Block i of `NOISE_ROWS` rows depends only on the seed, on i and on torch's generator, so that two streams with the
    same seed and different means are shifted copies of each other.

    Args:
        rows: N.
        channels: C.
        seed: of the noise.
        mean: of every channel.
        sd: of every channel.
    """

    def __init__(self, rows: int, channels: int, *, seed: int, mean: float = 0.0, sd: float = 1.0) -> None:
        self.rows, self.channels = rows, channels
        self._seed, self._mean, self._sd = seed, mean, sd
        self._last_block: tuple[int, Tensor] | None = None

    def blocks(self, size: int) -> Iterator[Tensor]:
        """Yields all rows in order, `size` at a time."""
        return (self.read(start, min(start + size, self.rows)) for start in range(0, self.rows, size))

    def read(self, start: int, stop: int) -> Tensor:
        """Reads rows `start` to `stop − 1`."""
        pieces = []
        for block in range(start // NOISE_ROWS, -(-stop // NOISE_ROWS)):
            offset = block * NOISE_ROWS
            pieces.append(self._draw(block)[max(0, start - offset) : stop - offset])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _draw(self, block: int) -> Tensor:
        """Draws block i as a whole, so that its rows do not depend on which are read; the last one is cached."""
        last = self._last_block  # a local reference, because another thread may replace the attribute
        if last is None or last[0] != block:
            state = int(np.random.SeedSequence((self._seed, block)).generate_state(1, np.uint64)[0])
            generator = torch.Generator().manual_seed(state % 2**63)
            noise_RC = torch.empty(NOISE_ROWS, self.channels)
            last = self._last_block = (block, noise_RC.normal_(self._mean, self._sd, generator=generator))
        return last[1]
