"""Steps of one comparison in the service: check the size, read the samples, compare them, and report the cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from vfmalign.client.messages.common import Cost, StageTiming
from vfmalign.client.messages.mmd import ComputeOptions, ComputeResponse
from vfmalign.core.domain.errors import Exhausted
from vfmalign.core.runtime.metrics import Stages, gpu_memory_used_bytes
from vfmalign.core.runtime.threads import Threads
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd import metrics
from vfmalign.mmd.comparison import memory_budget
from vfmalign.mmd.comparison.compare import compare_checked
from vfmalign.mmd.comparison.options import check_options
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.ordered_pool import cpu_seconds, wait_for_all
from vfmalign.mmd.service.feature_reader import FeatureReader, Source

_READING = Threads(1, "mmd-read")
"""Thread that reads the samples of long comparisons, one comparison at a time. After a cancellation, the read may
continue and use memory, so the next read waits until it ends.
"""


@dataclass(frozen=True)
class ComparisonJob:
    """Requested comparison and the reader of its samples.

    Attributes:
        sources: where to read x, y and an optional reference.
        reader: reader for these sources.
        context: deadline and cancellation.
        stages: maps each finished stage to its duration in seconds.
    """

    sources: Sequence[Source]
    options: ComputeOptions
    reader: FeatureReader
    context: WorkContext = UNLIMITED
    stages: Stages = field(default_factory=lambda: Stages("mmd."))

    @property
    def is_inline(self) -> bool:
        """Whether the request itself contains all features, so that nothing is read from storage."""
        return all(isinstance(source, Sample) for source in self.sources)


@dataclass(frozen=True)
class PreparedComparison:
    """Comparison whose options and size have been checked.

    Attributes:
        samples: samples of a short comparison; None if not read yet.
        short: whether the comparison is short enough to run at the same time as another comparison.
        by_layer: whether layers are read one at a time during the comparison, because all layers do not fit into
            memory.
    """

    job: ComparisonJob
    samples: Sequence[Sample] | None
    short: bool
    by_layer: bool = False


def prepare(job: ComparisonJob, engine: ComputeConfig) -> PreparedComparison:
    """Checks options and sizes before reading any features. If the comparison is short, then reads its features.

    Args:
        job: the requested comparison.
        engine: device and memory limit.

    Raises:
        BadOption, BadTensor: options or samples are invalid or inconsistent.
        NotFound: a feature set or object does not exist.
        TooLarge: the comparison does not fit into memory.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    job.context.checkpoint()
    check_options(job.options, has_reference=len(job.sources) > 2)
    with job.stages.stage("read"):
        shapes = job.reader.shapes(job.sources)
        memory_budget.check_sizes(shapes, job.options, engine)
        by_layer = not memory_budget.fits(shapes, job.options, engine)
        short = memory_budget.is_short(shapes, job.options, engine)
        samples = job.reader.read(job.sources, job.context) if short else None
    return PreparedComparison(job, samples, short, by_layer)


def run(prepared: PreparedComparison, engine: ComputeConfig) -> ComputeResponse:
    """Reads the samples and compares them. Cancellation and the deadline take effect at the next tile.

    Args:
        prepared: result of `prepare`.
        engine: device and memory limit.

    Raises:
        VfmalignError: reading or comparing the samples failed or was stopped (Cancelled, DeadlineExceeded, Exhausted).
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
        gpu_memory_used_bytes.labels(str(engine.device)).set(torch.cuda.memory_allocated(engine.device))
    return result.model_copy(update={"cost": to_cost(stages, engine.device, peak)})


def _read(prepared: PreparedComparison) -> Sequence[Sample]:
    """Reads the samples in a separate thread. A cancellation therefore need not wait for a blocked read."""
    job = prepared.job
    reading = _READING.submit(job.reader.read, job.sources, job.context, by_layer=prepared.by_layer)
    try:
        wait_for_all([reading], job.context)
    finally:
        reading.cancel()  # a read that has started stops at its next check
    return reading.result()


def _compare(samples: Sequence[Sample], job: ComparisonJob, engine: ComputeConfig) -> ComputeResponse:
    """Compares the samples and measures the CPU time."""
    reference = samples[2] if len(samples) > 2 else None
    started = cpu_seconds()
    try:
        return compare_checked(samples[0], samples[1], reference, job.options, replace(engine, context=job.context))
    except (torch.OutOfMemoryError, MemoryError):
        raise Exhausted(
            "the comparison did not fit into memory",
            subject="request",
            remedy="send fewer rows or fewer layers at once",
            reason="DEVICE_MEMORY",
        ) from None
    finally:
        metrics.engine_cpu_seconds.inc(cpu_seconds() - started)


def to_cost(stages: Stages, device: torch.device, peak_device_memory_bytes: int = 0) -> Cost:
    """Returns the cost of a comparison so far. The device in the cost is `cpu` or `cuda:<index> <name>`."""
    return Cost(
        stages=tuple(StageTiming(stage=stage, seconds=seconds) for stage, seconds in stages.seconds().items()),
        device=f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "cpu",
        peak_device_memory_bytes=peak_device_memory_bytes,
    )
