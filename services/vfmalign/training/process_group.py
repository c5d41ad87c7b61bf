"""The processes that train a job together: their ranks, joint decisions, and the division of each step's work.

Every process draws the same seeded batch, but runs the network only on its own shard of the samples. Every process then
gathers the outputs of the other processes and computes the loss of the whole batch. A loss that couples samples (Dice
over the batch, NT-Xent, a mean over hidden voxels) is therefore the same as in a single process. Gradients flow only
through a process's own outputs. `DistributedDataParallel` (Li et al., "PyTorch Distributed", VLDB 2020) adds up the
gradients of all processes. Only the main process validates and writes to object storage.

All processes must make every collective call below in the same order. If one process raised an error between two calls,
the other processes would wait for it. Processes therefore exchange errors and cancellations before they act on them.

Axes: N batch.
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

from vfmalign.core.domain.errors import BadOption, Cancelled, ProcessLost

COLLECTIVE_TIMEOUT = timedelta(hours=1)
"""How long a process waits for another in a collective call, such as while the main process writes a checkpoint."""
# gloo reports a lost process as a plain RuntimeError, which only its message distinguishes.
_LOST_PROCESS = re.compile(
    r"gloo|nccl|tcpstore|process ?group|connection (closed|reset|refused)|broken pipe", re.IGNORECASE
)

Forward = Callable[..., Tensor]


@dataclass(frozen=True)
class ProcessGroup:
    """This process and the other processes of its job.

    The default is a single process. With a single process, all methods are local.

    Attributes:
        rank: number of this process within the job.
        world_size: number of processes in the job.
        local_rank: number of this process on its machine. It is also the number of its CUDA device.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main_process(self) -> bool:
        """Whether this process validates, scores and writes."""
        return self.rank == 0

    def any_rank(self, flag: bool) -> bool:
        """Whether the flag is set in at least one process."""
        return bool(self._all_reduce_max(flag)[0])

    def barrier(self) -> None:
        """Waits until all processes have reached this call."""
        self._all_reduce_max(0)

    def all_equal(self, number: int) -> bool:
        """Whether the number is equal in all processes. It must be below 2**62."""
        largest, negated_smallest = self._all_reduce_max(number, -number)
        return largest == -negated_smallest

    def check_cancelled(self, check: Callable[[], None]) -> None:
        """Stops all processes at the same place.

        Args:
            check: raises Cancelled if this process should stop.

        Raises:
            Cancelled: at least one process should stop. All processes raise this error.
        """
        self._exchange(check, done=False)

    def run_on_main(self, work: Callable[[Callable[[], None]], float], check: Callable[[], None]) -> float:
        """Runs work in the main process only, and broadcasts the result.

        Args:
            work: called in the main process. The argument of `work` is a function. `work` must call this function
                wherever it can stop.
            check: raises Cancelled if this process should stop.

        Raises:
            Cancelled: at least one process should stop while the work runs. The error is raised in all processes.
        """
        if self.world_size == 1:
            return work(check)
        value = torch.zeros(1, dtype=torch.float64)
        if self.is_main_process:
            value[0] = work(lambda: self.check_cancelled(check))
            self._exchange(check, done=True)
        else:
            # One exchange for each of the main process's checks, until it reports that it has finished. A stop that
            # only this process received reaches the main process in the same way.
            while not self._exchange(check, done=False):
                pass
        distributed.broadcast(value, 0)
        return float(value)

    def distribute(self, network: nn.Module, batch_size: int) -> Forward:
        """Returns the network as a function of whole batches. Each process computes one shard of a batch.

        Args:
            network: network on this process's device. The weights of the network must be equal in all processes.
            batch_size: smallest batch with which the function will be called.

        Raises:
            BadOption: the batch has fewer samples than the job has processes, or the network has batch normalisation
                without running statistics.
        """
        if self.world_size == 1:
            return network
        if batch_size < self.world_size:
            raise BadOption(
                f"batch size {batch_size} is smaller than the number of processes ({self.world_size})",
                field="recipe.batch_size",
                remedy=f"use at least {self.world_size}, or fewer processes",
            )
        if any(isinstance(module, _BatchNorm) and module.running_mean is None for module in network.modules()):
            raise BadOption(
                "the network uses batch normalisation without running statistics, but each process sees only a part "
                "of the batch",
                field="architecture",
                remedy="train it in one process",
            )
        # The strides of a 1×1×1 kernel are ambiguous, and torch would warn users that this is slow.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        # An encoder's last norm is not used by a dense head: its parameters get no gradient, as in a single process.
        parallel = DistributedDataParallel(network, find_unused_parameters=True)

        def forward(*inputs_N: Tensor) -> Tensor:
            sizes = shard_sizes(len(inputs_N[0]), self.world_size)
            start = sum(sizes[: self.rank])
            shards_N = [input_N[start : start + sizes[self.rank]] for input_N in inputs_N]
            return self._gather_outputs(parallel(*shards_N), sizes)

        return forward

    def _gather_outputs(self, own_N: Tensor, sizes: Sequence[int]) -> Tensor:
        """Concatenates the outputs of all processes in order; only this process's own output carries a gradient."""
        padded_N = own_N.new_zeros((max(sizes), *own_N.shape[1:]))  # gloo gathers equal shapes only
        padded_N[: len(own_N)] = own_N.detach()
        parts = [torch.empty_like(padded_N) for _ in sizes]
        distributed.all_gather(parts, padded_N)
        # DistributedDataParallel averages over processes, whereas the gradient is the sum over their samples.
        own_N.register_hook(lambda gradient_N: gradient_N * self.world_size)  # type: ignore[no-untyped-call]
        outputs = [part_N[:size] for part_N, size in zip(parts, sizes, strict=True)]
        outputs[self.rank] = own_N
        return torch.cat(outputs)

    def _exchange(self, check: Callable[[], None], *, done: bool) -> bool:
        """Tells all processes whether any is to stop; returns whether the main process's work is done."""
        if self.world_size == 1:
            check()
            return done
        cancelled: Cancelled | None = None
        try:
            check()
        except Cancelled as error:
            cancelled = error  # raised after the exchange, in which the other processes learn of it
        any_cancelled, any_done = self._all_reduce_max(cancelled is not None, done)
        if any_cancelled:
            raise cancelled or Cancelled("another process of the job was stopped", remedy="start the job again")
        return bool(any_done)

    def _all_reduce_max(self, *numbers: int) -> list[int]:
        """Elementwise maximum over all processes."""
        if self.world_size == 1:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.int64)  # on the CPU, hence through gloo even where CUDA is used
        distributed.all_reduce(values, distributed.ReduceOp.MAX)
        return [int(value) for value in values]


SINGLE_PROCESS = ProcessGroup()


def shard_sizes(samples: int, world_size: int) -> list[int]:
    """Number of samples that each process computes. The numbers of two processes differ by at most one."""
    return [(rank + 1) * samples // world_size - rank * samples // world_size for rank in range(world_size)]


@contextmanager
def init_process_group(device: str) -> Iterator[ProcessGroup]:
    """Joins the processes that torch's launcher started for this job. Any other process works alone.

    Args:
        device: the device setting. Gradients are summed by gloo on CPUs and by NCCL on CUDA devices.

    Raises:
        BadOption: this machine has fewer CUDA devices than processes.
        ProcessLost: another process is lost. If you start all processes again, the job continues where it stopped.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield SINGLE_PROCESS
        return
    group = ProcessGroup(int(os.environ["RANK"]), world_size, int(os.environ["LOCAL_RANK"]))
    on_cuda = device != "cpu" and torch.cuda.is_available()
    if on_cuda and group.local_rank >= torch.cuda.device_count():
        raise BadOption(
            f"process {group.local_rank} of this machine has no CUDA device",
            field="--processes",
            remedy="start one process per device, or set VFMALIGN_TRAINING__DEVICE to cpu",
        )
    if on_cuda:
        torch.cuda.set_device(group.local_rank)
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo", timeout=COLLECTIVE_TIMEOUT)
        yield group
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and not _LOST_PROCESS.search(str(error)):
            raise
        raise ProcessLost("another process of the job is lost", remedy="start the job again") from error
    # Not in a `finally`: after an error, NCCL would wait here for operations that the lost process never completes.
    distributed.destroy_process_group()
