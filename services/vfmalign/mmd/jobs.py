"""One comparison as the service runs it on its work thread: read, compare, say what it cost. Knows nothing of gRPC."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from vfmalign.core import metrics
from vfmalign.core.errors import Cancelled, DeadlineExceeded, Exhausted
from vfmalign.core.metrics import Stages
from vfmalign.core.store import ObjectStore
from vfmalign.mmd import sources
from vfmalign.mmd.compare import check_options, compare
from vfmalign.mmd.results import Comparison, Engine, Options
from vfmalign.mmd.sources import Source


@dataclass(frozen=True)
class Job:
    """A comparison that was asked for.

    Attributes:
        given: x, y and perhaps the reference, stored or inline.
        deadline: `time.monotonic()` after which nobody waits for the answer, None for no such time.
    """

    given: Sequence[Source]
    options: Options
    deadline: float | None = None


@dataclass(frozen=True)
class Outcome:
    """The comparison and what it cost; peak device memory in bytes, 0 on the CPU."""

    comparison: Comparison
    stages: Stages
    device: str
    peak_device_memory_bytes: int


def run(job: Job, store: ObjectStore, engine: Engine, cancelled: Callable[[], bool]) -> Outcome:
    """Reads and compares; stops between tiles when cancelled or late.

    Raises:
        VfmalignError: whatever reading or comparing refuses; DeadlineExceeded, Cancelled and Exhausted among them.
    """
    stages = Stages("mmd.")

    def should_stop() -> bool:
        if job.deadline is not None and time.monotonic() > job.deadline:
            raise DeadlineExceeded("the caller's time was over before the comparison", remedy="give more time")
        return cancelled()

    if should_stop():
        raise Cancelled("the comparison was cancelled before it started", remedy="ask again")
    check_options(job.options, has_reference=len(job.given) > 2)
    on_gpu = engine.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(engine.device)
    with stages.stage("read"):
        samples = sources.read(store, job.given, job.options, engine)
    reference = samples[2] if len(samples) > 2 else None
    try:
        with stages.stage("compare"):
            result = compare(samples[0], samples[1], reference, job.options, replace(engine, should_stop=should_stop))
    except (torch.OutOfMemoryError, MemoryError):
        raise Exhausted(
            "the comparison did not fit into memory",
            subject="request",
            remedy="send fewer rows or fewer layers at once",
        ) from None
    peak = torch.cuda.max_memory_allocated(engine.device) if on_gpu else 0
    if on_gpu:
        metrics.gpu_memory_used_bytes.set(torch.cuda.memory_allocated(engine.device))
    return Outcome(result, stages, device_name(engine.device), peak)


def device_name(device: torch.device) -> str:
    """`cpu`, or `cuda:<index> <name>`."""
    return f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "cpu"
