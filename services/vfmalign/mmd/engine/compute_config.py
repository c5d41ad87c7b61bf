"""Where and how precisely to compute: device, precision, memory, and the processes that share the work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from vfmalign.client.messages.mmd import Precision
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.engine.distributed import SINGLE_PROCESS, Communicator
from vfmalign.mmd.engine.lru_cache import NO_CACHE, SizedLruCache

Backend = Literal["torch", "triton"]
BackendChoice = Literal["auto", "torch", "triton"]


@dataclass(frozen=True)
class ComputeConfig:
    """Device, precision and resources of a computation.

    Attributes:
        precision: minimum precision. `fast` rounds rows to bfloat16 on CUDA and equals `high` on a CPU; `high` is
            float32, and `exact` is float64. A comparison always uses float64 if it is small or would lose digits
            otherwise.
        backend: backend that sums kernel matrices; `auto` is torch on every device.
        memory_bytes: memory limit of one comparison, checked before it starts.
        tile_shape: largest tile, rows × columns; None for the default of the device.
        context: checked before every tile, or every few milliseconds if several threads compute tiles; raises
            Cancelled or DeadlineExceeded to stop.
        cache: cache of prepared rows that several comparisons share; by default no cache.
        communicator: processes that share the work of one comparison; by default only this process.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "high"
    backend: BackendChoice = "auto"
    memory_bytes: int = 4 * 2**30
    tile_shape: tuple[int, int] | None = None
    context: WorkContext = UNLIMITED
    cache: SizedLruCache = NO_CACHE
    communicator: Communicator = SINGLE_PROCESS
