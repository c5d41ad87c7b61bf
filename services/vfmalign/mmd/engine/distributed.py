"""Distribution of one comparison over several processes.

Every process runs the same program on the same rows, but evaluates the kernel only for its shard of all pairs. An
all-reduce adds up the sums of all processes, so that all processes have the same result.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Communicator:
    """Rank of this process, and number of processes that share the work; by default only this process.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this process reports the result."""
        return self.rank == 0

    @property
    def shard(self) -> tuple[int, int]:
        """Pair (index, count). This process computes each work item whose number modulo `count` is `index`."""
        return self.rank, self.world_size

    def all_reduce(self, *tensors: Tensor) -> None:
        """Replaces each tensor with its sum over all processes."""
        if self.world_size > 1:
            for tensor in tensors:
                distributed.all_reduce(tensor)


SINGLE_PROCESS = Communicator()


def started_by_torchrun() -> bool:
    """Returns whether torchrun started this process as one of several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def join_process_group() -> Iterator[Communicator]:
    """Joins the process group that torchrun started. Uses gloo for CPU tensors and NCCL for CUDA tensors."""
    if not started_by_torchrun():
        yield SINGLE_PROCESS
        return
    backends = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backends)
    try:
        yield Communicator(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """Returns the CUDA device that belongs to this process. Other devices are returned unchanged."""
    if device.type != "cuda" or not started_by_torchrun():
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
