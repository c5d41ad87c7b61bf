"""Settings of a computation: device, precision, memory, and the processes that share the work."""

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
        precision: minimum precision. `high` is float32, and `exact` is float64. `fast` is bfloat16 on CUDA and float32
            on a CPU. A comparison uses float64 anyway if it is small, or if a lower precision would lose too many
            digits.
        backend: backend that sums kernel matrices; `auto` selects torch on every device.
        memory_bytes: memory limit of one comparison in bytes. The limit is checked before the comparison starts.
        tile_shape: maximum rows and columns of a tile; None for the default of the device.
        context: can stop the computation by raising Cancelled or DeadlineExceeded. A single thread checks the context
            before every tile. Several threads check it every few milliseconds.
        cache: cache of prepared rows, which several comparisons may share; by default no cache.
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
