"""Memory estimates for a comparison.

If a comparison would exceed the memory limit, it is rejected before any feature is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vfmalign.client.messages.mmd import ComputeOptions
from vfmalign.core.domain.errors import BadOption, TooLarge
from vfmalign.mmd.comparison.samples import Sample, get_shape
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.kernels import WITHOUT_BANDWIDTH
from vfmalign.mmd.engine.ordered_pool import choose_threads
from vfmalign.mmd.engine.tiles import default_tile_shape
from vfmalign.mmd.statistics.bandwidths import EXACT_ROWS
from vfmalign.mmd.statistics.similarity import BLOCK_ENTRIES, check_size

BANDWIDTHS = 10
MAX_PROJECTED_ROWS = 100_000
MOST_OF_FOURIER = 2**30
"""Memory of random Fourier features, in addition to the rows."""

# Tens of milliseconds of one core. At most `precision.EXACT_FLOP`, so that short comparisons compute in float64 and do
# not depend on torch's setting for float32 products, which a long comparison that runs at the same time may change.
SHORT_OPERATIONS = 1e9
SHORT_MEMORY_SHARE = 4  # a short comparison takes at most a quarter of the memory, in addition to a long one


@dataclass(frozen=True)
class SampleShape:
    """Size of one sample.

    Attributes:
        channels: maps each layer to its number of channels.
        item_bytes: bytes of one feature value; the maximum if layers differ.
        in_parts: whether the layers of the sample can be read one at a time.
    """

    rows: int
    channels: Mapping[str, int]
    groups: int
    item_bytes: int = 8
    in_parts: bool = False


def get_sample_shape(sample: Sample) -> SampleShape:
    """Returns the size of a sample. This function does not check the features; `samples.check` does."""
    shapes = {layer: get_shape(features) or (0,) for layer, features in sample.layers.items()}
    rows = max((shape[0] for shape in shapes.values()), default=0)
    channels = {layer: shape[-1] if len(shape) > 1 else 0 for layer, shape in shapes.items()}
    return SampleShape(rows, channels, len(set(sample.groups)) or rows, in_parts=sample.is_streamed)


def widths(shape: SampleShape, options: ComputeOptions) -> list[int]:
    """Returns the number of channels of each compared layer."""
    selected = set(options.layers) | ({options.primary_layer} if options.layers else set())
    return [channels for layer, channels in shape.channels.items() if not selected or layer in selected]


def reads_blocks(options: ComputeOptions) -> bool:
    """Returns whether the comparison reads x and y only in blocks. If so, x and y may be streams of any length."""
    return options.estimator == "random_fourier" and not options.measures and not options.projection


@dataclass(frozen=True)
class _MemoryNeed:
    """Bytes that grow with the number of rows, and bytes that do not."""

    rows: int
    bytes_of_rows: int
    other_bytes: int

    @property
    def total(self) -> int:
        return self.bytes_of_rows + self.other_bytes


def get_peak_bytes(shapes: Sequence[SampleShape], options: ComputeOptions, engine: ComputeConfig) -> int:
    """Returns the peak number of bytes that a comparison needs, in addition to the memory of the idle process."""
    return _estimate_memory(shapes, options, engine).total


def _estimate_memory(
    shapes: Sequence[SampleShape], options: ComputeOptions, engine: ComputeConfig, *, by_layer: bool = False
) -> _MemoryNeed:
    """Estimates the memory of the features, and of the ordered rows and work space of one layer in float64.

    Args:
        shapes: sizes of x, y and an optional reference.
        options: layers, measures and test to compute.
        engine: tiles, device and memory limit.
        by_layer: whether samples in parts are read layer by layer (`random_fourier`: block by block).
    """
    x, y = shapes[:2]
    widest = max((channels for shape in shapes for channels in widths(shape, options)), default=0)
    rows = sum(shape.rows for shape in shapes)
    of_rows = 0
    for index, shape in enumerate(shapes):
        held = sum(shape.channels.values())
        if by_layer and shape.in_parts:
            held = 0 if reads_blocks(options) and index < 2 else widest
        of_rows += shape.item_bytes * shape.rows * held
    pairs = 16 * _distances(shapes, options)
    beside = 0
    if options.measures:
        of_rows += 16 * rows * widest  # all rows in float64, and centred on their own mean
        most = max(shape.rows for shape in shapes)
        side = min(most, widest) if "frechet" in options.measures else 0
        beside = 8 * (4 * min(most**2, BLOCK_ENTRIES) + 3 * side**2)
    if options.estimator == "random_fourier":
        return _MemoryNeed(rows, of_rows, pairs + beside + min(MOST_OF_FOURIER, engine.memory_bytes // 2))
    kernels = 1 + 2 * BANDWIDTHS if options.test.aggregated else 1
    of_rows += 8 * (x.rows + y.rows) * (widest + 4 * kernels)  # the rows in float64, and the sums of each kernel
    test = options.test
    layers = max(len(shape.channels) for shape in shapes)
    groups = x.groups if options.pairing == "paired" else x.groups + y.groups
    permuted = test.permutations * (2 * groups + 16 * layers)
    most = max(x.rows, y.rows)
    height, width = (min(side, most) for side in engine.tile_shape or default_tile_shape(engine.device))
    threads = choose_threads(engine.device, most**2 // max(height * width, 1) * 2)
    tiles = 8 * height * (width * (3 + kernels) + min(test.permutations, width)) * threads
    weights = 8 * width * min(test.permutations, width) * threads
    return _MemoryNeed(rows, of_rows, pairs + beside + permuted + tiles + weights)


def _distances(shapes: Sequence[SampleShape], options: ComputeOptions) -> int:
    """Returns how many distances are in memory at the same time when a bandwidth is computed."""
    kernel = options.kernel
    fitted = shapes[:2] if kernel.bandwidth_rule == "pooled_median" or len(shapes) < 3 else shapes[2:]
    taken = [] if kernel.fixed_sigma or kernel.family in WITHOUT_BANDWIDTH else [fitted]
    if options.test.aggregated:
        taken.append(shapes[:2])
    return max((min(sum(shape.rows for shape in some), EXACT_ROWS) ** 2 // 2 for some in taken), default=0)


def fits(shapes: Sequence[SampleShape], options: ComputeOptions, engine: ComputeConfig) -> bool:
    """Returns whether a comparison stays within the memory limit if all layers of all samples are in memory."""
    return get_peak_bytes(shapes, options, engine) <= engine.memory_bytes


def is_short(shapes: Sequence[SampleShape], options: ComputeOptions, engine: ComputeConfig) -> bool:
    """Returns whether a comparison is short enough to run at the same time as a long comparison.

    The answer affects only the order in which comparisons run, never their results.

    Args:
        shapes: sizes of x, y and an optional reference.
        options: layers and permutations.
        engine: contains the memory limit.
    """
    rows = sum(shape.rows for shape in shapes)
    operations = rows**2 * sum(channels + options.test.permutations for channels in widths(shapes[0], options))
    return (
        operations <= SHORT_OPERATIONS
        and SHORT_MEMORY_SHARE * get_peak_bytes(shapes, options, engine) <= engine.memory_bytes
    )


def check_sizes(shapes: Sequence[SampleShape], options: ComputeOptions, engine: ComputeConfig) -> None:
    """Checks that samples of these sizes can be compared.

    The check assumes that samples in parts are read layer by layer.

    Args:
        shapes: sizes of x, y and an optional reference.
        options: layers, measures and test to compute.
        engine: contains the memory limit.

    Raises:
        BadOption: a measure or the projection is not available for samples of these sizes.
        TooLarge: the comparison exceeds the memory limit. The error message contains a size that would fit.
    """
    _check_measures(shapes, options)
    _check_projection(shapes, options)
    need = _estimate_memory(shapes, options, engine, by_layer=True)
    if fits(shapes, options, engine) or need.total <= engine.memory_bytes:
        return
    fitting = (engine.memory_bytes - need.other_bytes) * need.rows // max(need.bytes_of_rows, 1)
    first = (
        f"send at most {fitting} rows over all samples" if fitting >= 2 * len(shapes) else "request fewer permutations"
    )
    ways = [first]
    if any(len(shape.channels) > 1 and not shape.in_parts for shape in shapes):
        ways.append("send fewer layers at once")
    if options.estimator != "random_fourier":
        ways.append("choose the estimator `random_fourier`")
    raise TooLarge(
        f"{need.rows} rows and {options.test.permutations} permutations need {need.total / 2**20:.0f} MiB, but "
        f"the limit is {engine.memory_bytes / 2**20:.0f} MiB",
        subject="request",
        remedy=", ".join([*ways, "or allow more memory (VFMALIGN_MMD__MEMORY_MIB)"]),
    )


def check_samples_fit(samples: Sequence[Sample], options: ComputeOptions, engine: ComputeConfig) -> None:
    """Checks the sizes of samples as `check_sizes` does. The samples may be streams."""
    check_sizes([get_sample_shape(sample) for sample in samples], options, engine)


def _check_measures(shapes: Sequence[SampleShape], options: ComputeOptions) -> None:
    """Checks that the requested measures can be computed for samples of these sizes.

    Raises:
        BadOption: the first measure that cannot be computed.
    """
    names = ("x", "y", "reference")
    fitted = 2 if len(shapes) > 2 else 0
    for measure in options.measures:
        for index, shape in enumerate(shapes):
            for channels in widths(shape, options):
                check_size(measure, names[index], shape.rows, channels, fitted=index == fitted)


def _check_projection(shapes: Sequence[SampleShape], options: ComputeOptions) -> None:
    """Checks that a projection fits into a message.

    Raises:
        BadOption: x or y has too many rows.
    """
    rows = max(shape.rows for shape in shapes[:2])
    if options.projection and rows > MAX_PROJECTED_ROWS:
        raise BadOption(
            f"expected at most {MAX_PROJECTED_ROWS} rows for a projection, got {rows}",
            field="projection",
            remedy="leave out the projection, or send a subset of the rows",
        )
