"""Processes that share one comparison: which part each takes, and how their sums become one.

Every rank runs the same program on the same rows, forms the kernel values of its part of all pairs, and adds its sums
to those of the others; all of them come to the same answer. Knows `torch.distributed`; nothing of what is summed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Ranks:
    """This process among those that share the work; by default it is alone.

    Attributes:
        rank: number of this process, from 0.
        count: of all processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def share(self) -> tuple[int, int]:
        """(part, parts): of numbered pieces of work, those with number % parts = part are this rank's."""
        return self.rank, self.count

    def add_up(self, *parts: Tensor) -> None:
        """Replaces each tensor by its sum over all ranks."""
        if self.count > 1:
            for part in parts:
                distributed.all_reduce(part)


ALONE = Ranks()


def started_by_torchrun() -> bool:
    """Whether this process is one of several that torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined() -> Iterator[Ranks]:
    """All processes that torchrun started: gloo adds up on CPUs, NCCL on CUDA devices."""
    if not started_by_torchrun():
        yield ALONE
        return
    backends = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backends)
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """The CUDA device of this rank on its machine; any other device as it is."""
    if device.type != "cuda" or not started_by_torchrun():
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
