"""Memory that a comparison needs, estimated from its sizes, and limits that are checked before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vfmalign.client.messages.mmd import ComputeOptions, TestOptions
from vfmalign.core.domain.errors import BadOption, TooLarge
from vfmalign.mmd.comparison.samples import Sample, get_shape
from vfmalign.mmd.engine import out_of_core
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.kernels import WITHOUT_BANDWIDTH
from vfmalign.mmd.engine.ordered_pool import choose_threads
from vfmalign.mmd.engine.tiles import Layout, default_tile_shape
from vfmalign.mmd.statistics.bandwidths import EXACT_ROWS
from vfmalign.mmd.statistics.similarity import BLOCK_ENTRIES, check_size

BANDWIDTHS = 10
MAX_PROJECTED_ROWS = 100_000

# Tens of milliseconds of one core. At most `precision.EXACT_FLOP`, so that short comparisons compute in float64 and do
# not depend on torch's setting for float32 products, which a long comparison that runs at the same time may change.
SHORT_OPERATIONS = 1e9
SHORT_MEMORY_SHARE = 4  # a short comparison takes at most a quarter of the memory, in addition to a long one


@dataclass(frozen=True)
class SampleShape:
    """Size of one sample: rows, channels by layer, groups."""

    rows: int
    channels: Mapping[str, int]
    groups: int


def get_sample_shape(sample: Sample) -> SampleShape:
    """Returns the size of a sample. Malformed features count with the axes they have; `samples.check` rejects them."""
    shapes = {layer: get_shape(features) or (0,) for layer, features in sample.layers.items()}
    rows = max((shape[0] for shape in shapes.values()), default=0)
    channels = {layer: shape[-1] if len(shape) > 1 else 0 for layer, shape in shapes.items()}
    return SampleShape(rows, channels, len(set(sample.groups)) or rows)


def widths(shape: SampleShape, options: ComputeOptions) -> list[int]:
    """Returns the channels of each compared layer."""
    selected = set(options.layers) | ({options.primary_layer} if options.layers else set())
    return [channels for layer, channels in shape.channels.items() if not selected or layer in selected]


@dataclass(frozen=True)
class _MemoryNeed:
    """Bytes that grow with the number of rows, and other bytes."""

    rows: int
    bytes_per_row: int
    other_bytes: int

    @property
    def total(self) -> int:
        return self.rows * self.bytes_per_row + self.other_bytes


def get_peak_bytes(shapes: Sequence[SampleShape], options: ComputeOptions, engine: ComputeConfig) -> int:
    """Returns the peak memory in bytes of comparing x, y and an optional reference, without the process itself."""
    return _estimate_memory(shapes, options, engine).total


def _estimate_memory(shapes: Sequence[SampleShape], options: ComputeOptions, engine: ComputeConfig) -> _MemoryNeed:
    """Estimates the memory: features of all layers, and for one layer its ordered rows and work space in float64."""
    channels = [width for shape in shapes for width in shape.channels.values()]
    layers = max((len(shape.channels) for shape in shapes), default=0)
    per_row = 8 * (max((sum(shape.channels.values()) for shape in shapes), default=0) + max(channels, default=0))
    test, pairs = options.test, _distances(shapes, options)
    groups = sum(shape.groups for shape in shapes[:2])
    permuted = test.permutations * (2 * groups + 16 * layers)
    kernels = 1 + 2 * BANDWIDTHS if test.aggregated else 1
    most = max((shape.rows for shape in shapes), default=0)
    height, width = (min(side, most) for side in engine.tile_shape or default_tile_shape(engine.device))
    threads = choose_threads(engine.device, most**2 // max(height * width, 1) * 2)
    tiles = 8 * height * (width * (3 + kernels) + min(test.permutations, width)) * threads
    weights = 8 * width * min(test.permutations, width) * threads
    beside = 0
    if options.measures:
        per_row += 8 * max(channels, default=0)  # rows centred on their own mean
        side = min(most, max(channels, default=0)) if "frechet" in options.measures else 0
        beside = 8 * (4 * min(most**2, BLOCK_ENTRIES) + 3 * side**2)
    return _MemoryNeed(sum(shape.rows for shape in shapes), per_row, 16 * pairs + permuted + tiles + weights + beside)


def _distances(shapes: Sequence[SampleShape], options: ComputeOptions) -> int:
    """Returns how many distances are in memory at once to compute a bandwidth."""
    kernel = options.kernel
    fitted = shapes[:2] if kernel.bandwidth_rule == "pooled_median" or len(shapes) < 3 else shapes[2:]
    taken = [] if kernel.fixed_sigma or kernel.family in WITHOUT_BANDWIDTH else [fitted]
    if options.test.aggregated:
        taken.append(shapes[:2])
    return max((min(sum(shape.rows for shape in some), EXACT_ROWS) ** 2 // 2 for some in taken), default=0)


def fits(shapes: Sequence[SampleShape], options: ComputeOptions, engine: ComputeConfig) -> bool:
    """Whether a comparison of features in memory stays within the memory limit."""
    return _estimate_memory(shapes, options, engine).total <= engine.memory_bytes


def is_short(shapes: Sequence[SampleShape], options: ComputeOptions, engine: ComputeConfig) -> bool:
    """Whether a comparison takes so little time and memory that it may run beside a long one.

    The rule affects only the order of work, never a result.

    Args:
        shapes: of x, y and an optional reference.
        options: layers and permutations.
        engine: holds the memory limit.
    """
    rows = sum(shape.rows for shape in shapes)
    operations = rows**2 * sum(channels + options.test.permutations for channels in widths(shapes[0], options))
    return (
        operations <= SHORT_OPERATIONS
        and SHORT_MEMORY_SHARE * get_peak_bytes(shapes, options, engine) <= engine.memory_bytes
    )


def reserve_for_reference(reference: Sequence[SampleShape], engine: ComputeConfig) -> ComputeConfig:
    """Returns the engine with the memory that a reference in memory leaves for streams."""
    held = 8 * sum(shape.rows * sum(shape.channels.values()) for shape in reference)
    return replace(engine, memory_bytes=engine.memory_bytes - held)


def check_sizes(
    shapes: Sequence[SampleShape], options: ComputeOptions, engine: ComputeConfig, *, streamed: bool
) -> None:
    """Checks that a comparison of samples of these sizes can be computed.

    Args:
        shapes: of x, y and an optional reference.
        options: what to compute.
        engine: holds the memory limit.
        streamed: whether x and y are read part by part.

    Raises:
        BadOption: a measure or the projection cannot be computed at these sizes.
        TooLarge: the comparison needs more memory than the limit, now and later; the message says what would fit.
    """
    _check_measures(shapes, options, streamed=streamed)
    _check_projection(shapes, options, streamed=streamed)
    (_check_streams_fit if streamed else _check_fits)(shapes, options, engine)


def check_samples_fit(samples: Sequence[Sample], options: ComputeOptions, engine: ComputeConfig) -> None:
    """Checks the sizes of samples that are in memory or streams; raises as `check_sizes`."""
    shapes = [get_sample_shape(sample) for sample in samples]
    check_sizes(shapes, options, engine, streamed=any(sample.is_streamed for sample in samples[:2]))


def _check_streams_fit(shapes: Sequence[SampleShape], options: ComputeOptions, engine: ComputeConfig) -> None:
    """Checks that the sums over streamed samples and the reference fit into memory.

    Raises:
        TooLarge: the comparison needs more memory than the limit, now and later; the message says what would fit.
    """
    x, y, *reference = shapes
    if reference:
        _check_fits(reference, options.model_copy(update={"test": TestOptions()}), engine)
    if options.estimator == "random_fourier":
        return
    engine = reserve_for_reference(reference, engine)
    groups = x.groups if options.pairing == "paired" else x.groups + y.groups
    sizes = (x.rows,) if options.pairing == "paired" or options.test.method == "wild_bootstrap" else (x.rows, y.rows)
    nothing = np.broadcast_to(np.int8(0), (groups, options.test.permutations))
    out_of_core.plan_panels(
        max(x.channels.values(), default=1),
        Layout(sizes, np.zeros(0, np.int64), nothing),
        1 + 2 * BANDWIDTHS if options.test.aggregated else 1,
        engine.memory_bytes,
        precision="float64",
        shape=engine.tile_shape or default_tile_shape(engine.device),
    )


def _check_fits(shapes: Sequence[SampleShape], options: ComputeOptions, engine: ComputeConfig) -> None:
    """Checks that a comparison of samples in memory fits.

    Raises:
        TooLarge: the comparison needs more memory than the limit, now and later; the message says what would fit.
    """
    need = _estimate_memory(shapes, options, engine)
    if need.total <= engine.memory_bytes:
        return
    fitting = (engine.memory_bytes - need.other_bytes) // max(need.bytes_per_row, 1)
    if fitting >= 2 * len(shapes):
        remedy = f"send at most {fitting} rows over all samples, or fewer layers at once"
    else:
        remedy = "request fewer permutations, or fewer layers at once"
    raise TooLarge(
        f"{need.rows} rows and {options.test.permutations} permutations need {need.total / 2**20:.0f} MiB, and "
        f"the limit is {engine.memory_bytes / 2**20:.0f} MiB",
        subject="request",
        remedy=remedy,
    )


def _check_measures(shapes: Sequence[SampleShape], options: ComputeOptions, *, streamed: bool) -> None:
    """Checks that the requested measures can be computed for samples of these sizes.

    Raises:
        BadOption: the first measure that cannot be computed.
    """
    names = ("x", "y", "reference")
    fitted = 2 if len(shapes) > 2 else 0
    for measure in options.measures:
        if streamed:
            raise BadOption(
                f"`{measure}` cannot be computed for features that do not fit into memory",
                field="measures",
                remedy="leave it out, or raise VFMALIGN_MMD__MEMORY_MIB",
            )
        for index, shape in enumerate(shapes):
            for channels in widths(shape, options):
                check_size(measure, names[index], shape.rows, channels, fitted=index == fitted)


def _check_projection(shapes: Sequence[SampleShape], options: ComputeOptions, *, streamed: bool) -> None:
    """Checks that a projection fits into memory and into a message.

    Raises:
        BadOption: x or y has too many rows, or does not fit into memory.
    """
    rows = max(shape.rows for shape in shapes[:2])
    if options.projection and streamed:
        raise BadOption(
            "features that do not fit into memory cannot be projected",
            field="projection",
            remedy="leave the projection out, or raise VFMALIGN_MMD__MEMORY_MIB",
        )
    if options.projection and rows > MAX_PROJECTED_ROWS:
        raise BadOption(
            f"expected at most {MAX_PROJECTED_ROWS} rows for a projection, got {rows}",
            field="projection",
            remedy="leave the projection out, or send a part of the rows",
        )
