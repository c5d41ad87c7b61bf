"""Which backend sums a kernel matrix, and why: triton where it runs, torch everywhere. Knows nothing of statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vfmalign.mmd import engine as torch_engine
from vfmalign.mmd import products
from vfmalign.mmd.engine import Layout, Matrix, Sums
from vfmalign.mmd.kernels import Kernel
from vfmalign.mmd.results import Backend, Engine


@dataclass(frozen=True)
class Summed:
    """Sums per kernel, what formed them, and why not another backend that was asked for (empty otherwise)."""

    sums: list[Sums]
    backend: Backend
    note: str = ""


def accumulate(
    matrix: Matrix, kernels: Sequence[Kernel], layout: Layout, engine: Engine, *, squares: bool = False
) -> Summed:
    """All sums of the matrix, for each kernel, on the engine's backend.

    Raises:
        Cancelled, DeadlineExceeded: `engine.between_tiles` said so.
    """
    note = ""
    with products.matrix_units(matrix.precision, matrix.device):
        sums = torch_engine.accumulate(
            matrix,
            kernels,
            layout,
            tile_shape=engine.tile_shape,
            between_tiles=engine.between_tiles,
            squares=squares,
        )
    return Summed(sums, "torch", note)
