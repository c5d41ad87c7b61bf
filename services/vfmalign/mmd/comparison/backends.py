"""Choice of the backend that sums kernel matrices: torch, or Triton where it is requested and available."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vfmalign.core.runtime import logs
from vfmalign.mmd.engine import products
from vfmalign.mmd.engine import tiles as torch_engine
from vfmalign.mmd.engine.compute_config import Backend, ComputeConfig
from vfmalign.mmd.engine.distributed import Communicator
from vfmalign.mmd.engine.kernels import BoundKernel
from vfmalign.mmd.engine.tiles import Layout, Matrix, Sums
from vfmalign.mmd.engine.triton import backend

_log = logs.get(__name__)


@dataclass(frozen=True)
class BackendSums:
    """Sums of each kernel, and the backend that computed them.

    `note` explains why the requested backend was not used; it is empty if that backend was used.
    """

    sums: list[Sums]
    backend: Backend
    note: str = ""


def accumulate(
    matrix: Matrix, kernels: Sequence[BoundKernel], layout: Layout, engine: ComputeConfig, *, squares: bool = False
) -> BackendSums:
    """Computes the sums of each kernel matrix, and adds up the sums of all processes.

    Raises:
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    note = get_triton_obstacle(matrix, kernels, engine)
    if engine.backend == "triton" and not note:
        try:
            sums = _accumulate_tiles(backend.accumulate, matrix, kernels, layout, engine, squares=squares)
            return BackendSums(sum_over_processes(sums, engine.communicator, matrix.device), "triton")
        except backend.errors() as error:
            note = f"triton could not compile or launch its kernel: {type(error).__name__}"
            _log.warning("triton_failed", error=type(error).__name__, exc_info=True)
    sums = _accumulate_tiles(torch_engine.accumulate, matrix, kernels, layout, engine, squares=squares)
    return BackendSums(sum_over_processes(sums, engine.communicator, matrix.device), "torch", note)


def _accumulate_tiles(
    accumulate: Callable[..., list[Sums]],
    matrix: Matrix,
    kernels: Sequence[BoundKernel],
    layout: Layout,
    engine: ComputeConfig,
    *,
    squares: bool,
) -> list[Sums]:
    """Computes the sums over the tiles of this process."""
    with products.matrix_units(matrix.precision, matrix.device):
        return accumulate(
            matrix,
            kernels,
            layout,
            tile_shape=engine.tile_shape,
            context=engine.context,
            squares=squares,
            shard=engine.communicator.shard,
        )


def get_triton_obstacle(matrix: Matrix, kernels: Sequence[BoundKernel], engine: ComputeConfig) -> str:
    """Returns why the requested Triton backend cannot be used; empty if it can be used or was not requested."""
    if engine.backend != "triton":
        return ""
    return backend.unavailable_reason(matrix.device, matrix.precision, kernels)


def sum_over_processes(sums: Sequence[Sums], communicator: Communicator, device: torch.device) -> list[Sums]:
    """Adds up the sums of all processes."""
    if communicator.world_size == 1:
        return list(sums)
    totals = []
    for local in sums:
        parts = [local.rows_NP, local.diagonal_N, local.within_G, local.quadratic_B, np.array([local.squares])]
        tensors = [torch.tensor(part, device=device) for part in parts]  # copies, as some share their memory
        communicator.all_reduce(*tensors)
        rows_NP, diagonal_N, within_G, quadratic_B, squares = (tensor.cpu().numpy() for tensor in tensors)
        totals.append(Sums(rows_NP, diagonal_N, within_G, quadratic_B, float(squares[0])))
    return totals
