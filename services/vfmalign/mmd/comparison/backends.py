"""Choice of the backend that sums a kernel matrix: triton where it runs, torch everywhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vfmalign.core.runtime import logs
from vfmalign.mmd.comparison.options import Backend, ComputeConfig
from vfmalign.mmd.engine import products
from vfmalign.mmd.engine import tiles as torch_engine
from vfmalign.mmd.engine.distributed import Communicator
from vfmalign.mmd.engine.kernels import BoundKernel
from vfmalign.mmd.engine.tiles import Layout, Matrix, Sums
from vfmalign.mmd.engine.triton import backend

_log = logs.get(__name__)


@dataclass(frozen=True)
class Summed:
    """Sums per kernel, what formed them, and why not another backend that was asked for (empty otherwise)."""

    sums: list[Sums]
    backend: Backend
    note: str = ""


def accumulate(
    matrix: Matrix, kernels: Sequence[BoundKernel], layout: Layout, engine: ComputeConfig, *, squares: bool = False
) -> Summed:
    """All sums of the matrix, for each kernel, on the engine's backend; of several ranks, added up.

    Raises:
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    note = why_not_triton(matrix, kernels, engine)
    if wants_triton(engine) and not note:
        try:
            sums = _formed(backend.accumulate, matrix, kernels, layout, engine, squares=squares)
            return Summed(added_up(sums, engine.communicator, matrix.device), "triton")
        except backend.errors() as error:
            note = f"triton could not compile or launch its program here: {type(error).__name__}"
            _log.warning("triton_failed", error=type(error).__name__, exc_info=True)
    sums = _formed(torch_engine.accumulate, matrix, kernels, layout, engine, squares=squares)
    return Summed(added_up(sums, engine.communicator, matrix.device), "torch", note)


def _formed(
    form: Callable[..., list[Sums]],
    matrix: Matrix,
    kernels: Sequence[BoundKernel],
    layout: Layout,
    engine: ComputeConfig,
    *,
    squares: bool,
) -> list[Sums]:
    """The sums of this rank's tiles."""
    with products.matrix_units(matrix.precision, matrix.device):
        return form(
            matrix,
            kernels,
            layout,
            tile_shape=engine.tile_shape,
            context=engine.context,
            squares=squares,
            shard=engine.communicator.shard,
        )


def why_not_triton(matrix: Matrix, kernels: Sequence[BoundKernel], engine: ComputeConfig) -> str:
    """Why triton, which the engine would take, cannot; empty where it can or is not wanted."""
    if not wants_triton(engine):
        return ""
    return backend.unavailable_reason(matrix.device, matrix.precision, kernels)


def wants_triton(engine: ComputeConfig) -> bool:
    """Whether triton is asked for, or taken wherever it runs and there is a device for it."""
    return engine.backend == "triton" or (engine.backend == "auto" and engine.device.type == "cuda")


def added_up(sums: Sequence[Sums], communicator: Communicator, device: torch.device) -> list[Sums]:
    """Sums over the tiles of all ranks."""
    if communicator.world_size == 1:
        return list(sums)
    totals = []
    for one in sums:
        parts = [one.rows_NP, one.diagonal_N, one.within_G, one.quadratic_B, np.array([one.squares])]
        tensors = [torch.tensor(part, device=device) for part in parts]  # copies, as some share their memory
        communicator.all_reduce(*tensors)
        rows_NP, diagonal_N, within_G, quadratic_B, squares = (tensor.cpu().numpy() for tensor in tensors)
        totals.append(Sums(rows_NP, diagonal_N, within_G, quadratic_B, float(squares[0])))
    return totals
