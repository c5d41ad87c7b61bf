"""One comparison as the service runs it: check its size, read its samples, compare them, and report the cost."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import torch

from vfmalign.client.messages.common import Cost, StageTiming
from vfmalign.client.messages.mmd import ComputeResponse
from vfmalign.core.domain.errors import Exhausted
from vfmalign.core.runtime import metrics
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.comparison import memory_budget
from vfmalign.mmd.comparison.compare import check_options, compare
from vfmalign.mmd.comparison.options import ComparisonOptions, ComputeConfig
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine.ordered_pool import cpu_seconds, wait_for_all
from vfmalign.mmd.service.feature_reader import FeatureReader, Source


@dataclass(frozen=True)
class ComparisonJob:
    """A requested comparison.

    Attributes:
        given: x, y and perhaps the reference, by what names them.
        sets: reads them.
        context: its deadline and cancellation.
        stages: what it has cost so far.
    """

    given: Sequence[Source]
    options: ComparisonOptions
    sets: FeatureReader
    context: WorkContext = UNLIMITED
    stages: Stages = field(default_factory=lambda: Stages("mmd."))

    @property
    def is_inline(self) -> bool:
        """Whether nothing has to be read."""
        return all(isinstance(one, Sample) for one in self.given)


@dataclass(frozen=True)
class PreparedComparison:
    """A comparison that may start.

    Attributes:
        samples: what is compared, where it was read already: that of short ones is.
        short: it takes so little time and memory that it may run beside another.
        streamed: x and y do not fit into memory and are read part by part while they are compared.
    """

    job: ComparisonJob
    samples: Sequence[Sample] | None
    short: bool
    streamed: bool = False


def prepare(job: ComparisonJob, engine: ComputeConfig) -> PreparedComparison:
    """Refuses what cannot succeed or does not fit, from sizes alone, and reads the features of short comparisons.

    Args:
        job: the comparison.
        engine: where it will run.

    Raises:
        VfmalignError: an option that means nothing, a set that is not there, a comparison that does not fit.
    """
    job.context.checkpoint()
    check_options(job.options, has_reference=len(job.given) > 2)
    with job.stages.stage("read"):
        shapes = job.sets.shapes(job.given)
        streamed = job.sets.in_parts(job.given[:2]) and not memory_budget.fits(shapes, job.options, engine)
        memory_budget.check_measures(shapes, job.options, streamed=streamed)
        if streamed:
            memory_budget.refuse_too_large_to_stream(shapes, job.options, engine)
            return PreparedComparison(job, None, short=False, streamed=True)
        memory_budget.refuse_too_large(shapes, job.options, engine)
        short = memory_budget.is_short(shapes, job.options, engine)
        samples = job.sets.read(job.given, job.context) if short else None
    return PreparedComparison(job, samples, short)


def run(prepared: PreparedComparison, engine: ComputeConfig) -> ComputeResponse:
    """Reads and compares; stops at the next tile when cancelled or late.

    Args:
        prepared: what `prepare` returned.
        engine: where to compute.

    Raises:
        VfmalignError: whatever reading or comparing refuses; DeadlineExceeded, Cancelled and Exhausted among them.
    """
    job, stages, samples = prepared.job, prepared.job.stages, prepared.samples
    job.context.checkpoint()
    on_gpu = engine.device.type == "cuda"
    if on_gpu and not prepared.short:
        torch.cuda.reset_peak_memory_stats(engine.device)
    if samples is None:
        with stages.stage("read"):
            samples = _read(prepared)
    with stages.stage("compare"):
        result = _compare(samples, job, engine)
    peak = torch.cuda.max_memory_allocated(engine.device) if on_gpu else 0
    if on_gpu:
        metrics.gpu_memory_used_bytes.set(torch.cuda.memory_allocated(engine.device))
    return result.model_copy(update={"cost": to_cost(stages, engine.device, peak)})


def _read(prepared: PreparedComparison) -> Sequence[Sample]:
    """The samples, read in a thread of its own so that a read that blocks does not delay a cancellation."""
    job = prepared.job
    at_hand = job.given[2:] if prepared.streamed else job.given
    stopped = threading.Event()

    with ThreadPoolExecutor(1, thread_name_prefix="mmd-read") as reader:
        reading = reader.submit(job.sets.read, at_hand, WorkContext(is_cancelled=stopped.is_set))
        try:
            wait_for_all([reading], job.context)
        finally:
            stopped.set()
    samples = reading.result()
    return [*job.sets.streams(job.given[:2]), *samples] if prepared.streamed else samples


def _compare(samples: Sequence[Sample], job: ComparisonJob, engine: ComputeConfig) -> ComputeResponse:
    """The comparison, with its own CPU time counted."""
    reference = samples[2] if len(samples) > 2 else None
    started = cpu_seconds()
    try:
        return compare(samples[0], samples[1], reference, job.options, replace(engine, context=job.context))
    except (torch.OutOfMemoryError, MemoryError):
        raise Exhausted(
            "the comparison did not fit into memory",
            subject="request",
            remedy="send fewer rows or fewer layers at once",
        ) from None
    finally:
        metrics.engine_cpu_seconds.inc(cpu_seconds() - started)


def to_cost(stages: Stages, device: torch.device, peak_device_memory_bytes: int = 0) -> Cost:
    """What a comparison cost so far; the device is named `cpu` or `cuda:<index> <name>`."""
    return Cost(
        stages=tuple(StageTiming(stage=stage, seconds=seconds) for stage, seconds in stages.seconds().items()),
        device=f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "cpu",
        peak_device_memory_bytes=peak_device_memory_bytes,
    )
