"""The processes that train one job together: who they are, what they agree on, how they share the work of a step.

Knows `torch.distributed`; knows nothing of jobs, tasks or storage. Axes: N batch.

Every process draws the whole batch, which is seeded, and runs the network on its own share of the samples; the outputs
of the others are gathered, and every process takes the loss of the whole batch. So a loss that couples samples (Dice
over the batch, NT-Xent, a mean over hidden voxels) is the one that a single process computes, whatever the shares.
Gradients flow through a process's own outputs alone, and `DistributedDataParallel` (Li et al., "PyTorch Distributed",
VLDB 2020) adds them up. What does not train (validation, storage) the first process does alone.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from vfmalign.core.domain.errors import BadOption, Cancelled, Unavailable

PATIENCE = timedelta(hours=1)
"""How long a process waits for another: the first one reads the cases, or writes a checkpoint, in this time."""
# gloo reports a peer that is gone as a plain RuntimeError.
_LOST = re.compile(r"gloo|nccl|tcpstore|process ?group|connection (closed|reset|refused)|broken pipe", re.IGNORECASE)

Forward = Callable[..., Tensor]


@dataclass(frozen=True)
class Processes:
    """This process among those of its job; by default it is alone, and then every method is trivial.

    Attributes:
        rank: its number among them.
        size: how many they are.
        local_rank: its number on its machine, and that of its CUDA device.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether it is the one that validates, scores and writes."""
        return self.rank == 0

    def anywhere(self, flag: bool) -> bool:
        """Whether a flag is set in any process; all wait for each other here."""
        return bool(self._largest(flag)[0])

    def wait(self) -> None:
        """Waits until all processes are here."""
        self.anywhere(False)

    def alike(self, number: int) -> bool:
        """Whether all processes have the same number, below 2**62."""
        most, least = self._largest(number, -number)
        return most == -least

    def check(self, ask: Callable[[], None]) -> None:
        """Stops all processes at one place.

        Args:
            ask: raises Cancelled where this process is to stop.

        Raises:
            Cancelled: in all, once any was asked to stop.
        """
        self._round(ask, done=False)

    def led(self, work: Callable[[Callable[[], None]], float], ask: Callable[[], None]) -> float:
        """Lets the first process work alone, and gives its number to all.

        Args:
            work: called there with a function that it is to call wherever it can stop.
            ask: raises Cancelled where this process is to stop.

        Raises:
            Cancelled: in all, once any was asked to stop while the work went on.
        """
        if self.size == 1:
            return work(ask)
        value = torch.zeros(1, dtype=torch.float64)
        if self.leads:
            value[0] = work(lambda: self.check(ask))
            self._round(ask, done=True)
        else:
            while not self._round(ask, done=False):
                pass
        distributed.broadcast(value, 0)
        return float(value)

    def spread(self, network: nn.Module, batch_size: int) -> Forward:
        """The network as a function of whole batches, of which every process computes a share.

        Args:
            network: lies on this process's device; equal in all of them.
            batch_size: smallest batch that it will be called with.

        Raises:
            BadOption: the batch has fewer samples than there are processes, or the network normalises over the batch.
        """
        if self.size == 1:
            return network
        if batch_size < self.size:
            raise BadOption(
                f"a batch of {batch_size} has no sample for each of {self.size} processes",
                field="recipe.batch_size",
                remedy=f"use at least {self.size}, or fewer processes",
            )
        if any(isinstance(module, _BatchNorm) for module in network.modules()):
            raise BadOption(
                "the network normalises over the batch, of which each process sees its share alone",
                field="architecture",
                remedy="train it in one process",
            )
        # A kernel of one voxel lies in memory in two ways at once, and torch would tell users that it is slow.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        # An encoder's last norm is not on the way to a dense head: such parameters get no gradient, as in one process.
        shared = DistributedDataParallel(network, find_unused_parameters=True)

        def forward(*inputs_N: Tensor) -> Tensor:
            counts = shares(len(inputs_N[0]), self.size)
            start = sum(counts[: self.rank])
            own = [input_N[start : start + counts[self.rank]] for input_N in inputs_N]
            return self._gathered(shared(*own), counts)

        return forward

    def _gathered(self, own_N: Tensor, counts: Sequence[int]) -> Tensor:
        """The outputs of all processes in order; the gradient goes to this one's alone."""
        padded_N = own_N.new_zeros((max(counts), *own_N.shape[1:]))  # gloo gathers equal shapes only
        padded_N[: len(own_N)] = own_N.detach()
        parts = [torch.empty_like(padded_N) for _ in counts]
        distributed.all_gather(parts, padded_N)
        # DistributedDataParallel takes the mean over processes; the gradient is the sum over their samples.
        own_N.register_hook(lambda gradient_N: gradient_N * self.size)  # type: ignore[no-untyped-call]
        filled = [part_N[:count] for part_N, count in zip(parts, counts, strict=True)]
        filled[self.rank] = own_N
        return torch.cat(filled)

    def _round(self, ask: Callable[[], None], *, done: bool) -> bool:
        """One exchange of what all have to know; returns whether the first process's work is done."""
        if self.size == 1:
            ask()
            return done
        own: Cancelled | None = None
        try:
            ask()
        except Cancelled as error:
            own = error
        asked, over = self._largest(own is not None, done)
        if asked:
            raise own or Cancelled("another process of the job was asked to stop", remedy="start the job again")
        return bool(over)

    def _largest(self, *numbers: int) -> list[int]:
        if self.size == 1:
            return list(numbers)
        shared = torch.tensor(numbers, dtype=torch.int64)  # on the CPU, so through gloo
        distributed.all_reduce(shared, distributed.ReduceOp.MAX)
        return [int(number) for number in shared]


ALONE = Processes()


def shares(samples: int, processes: int) -> list[int]:
    """How many samples each process takes: all of them, as evenly as they go."""
    return [(rank + 1) * samples // processes - rank * samples // processes for rank in range(processes)]


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """All processes that torch's launcher started for this job; a process that it did not start is alone.

    Args:
        device: the setting: gloo adds up on CPUs, NCCL on CUDA devices.

    Raises:
        BadOption: this machine has fewer CUDA devices than processes.
        Unavailable: another process is gone; the job goes on where it stopped when all are started again.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    found = Processes(int(os.environ["RANK"]), size, int(os.environ["LOCAL_RANK"]))
    on_cuda = device != "cpu" and torch.cuda.is_available()
    if on_cuda and found.local_rank >= torch.cuda.device_count():
        raise BadOption(
            f"there is no CUDA device for process {found.local_rank} of this machine",
            field="--processes",
            remedy="start one process for each device, or set VFMALIGN_TRAINING__DEVICE to cpu",
        )
    if on_cuda:
        torch.cuda.set_device(found.local_rank)
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo", timeout=PATIENCE)
        yield found
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and not _LOST.search(str(error)):
            raise
        raise Unavailable("another process of the job is gone", remedy="start the job again") from error
    # Not after an error: NCCL waits here for what was under way.
    distributed.destroy_process_group()
