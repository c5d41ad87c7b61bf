"""What a comparison needs in memory, so that one that does not fit is refused before it starts.

Knows sizes only, no features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vfmalign.core.domain.errors import BadOption, TooLarge
from vfmalign.mmd.comparison.options import ComparisonOptions, ComputeConfig
from vfmalign.mmd.comparison.samples import Sample, shape_of
from vfmalign.mmd.engine import out_of_core
from vfmalign.mmd.engine.kernels import WITHOUT_BANDWIDTH
from vfmalign.mmd.engine.ordered_pool import choose_threads
from vfmalign.mmd.engine.tiles import Layout, default_tile_shape
from vfmalign.mmd.statistics import estimators
from vfmalign.mmd.statistics.bandwidths import EXACT_ROWS
from vfmalign.mmd.statistics.similarity import BLOCK_ENTRIES, check_size

MAX_PERMUTATIONS = 100_000
BANDWIDTHS = 10
MAX_PROJECTED_ROWS = 100_000

# Tens of milliseconds of one core. Not more than `precision.EXACT_FLOP`: short comparisons then compute in float64, and
# so do not depend on torch's setting for float32 products, which a comparison beside them may change.
SHORT_OPERATIONS = 1e9
SHORT_MEMORY_SHARE = 4  # A short comparison takes a fourth of the memory at most, as it comes on top of a long one.


@dataclass(frozen=True)
class SampleShape:
    """The size of one sample: rows, channels by layer, groups."""

    rows: int
    channels: Mapping[str, int]
    groups: int


def get_sample_shape(sample: Sample) -> SampleShape:
    """The size of features at hand; malformed ones count what they have and are refused elsewhere."""
    shapes = {layer: shape_of(features) or (0,) for layer, features in sample.layers.items()}
    rows = max((shape[0] for shape in shapes.values()), default=0)
    channels = {layer: shape[-1] if len(shape) > 1 else 0 for layer, shape in shapes.items()}
    return SampleShape(rows, channels, len(set(sample.groups)) or rows)


def widths(shape: SampleShape, options: ComparisonOptions) -> list[int]:
    """Channels of the layers that are compared."""
    selected = set(options.layers) | ({options.primary_layer} if options.layers else set())
    return [channels for layer, channels in shape.channels.items() if not selected or layer in selected]


@dataclass(frozen=True)
class _Need:
    """Bytes that grow with the rows, and bytes that do not."""

    rows: int
    bytes_per_row: int
    other_bytes: int

    @property
    def total(self) -> int:
        return self.rows * self.bytes_per_row + self.other_bytes


def bytes_needed(given: Sequence[SampleShape], options: ComparisonOptions, engine: ComputeConfig) -> int:
    """Peak memory of a comparison of x, y and perhaps a reference, beside the process itself, in bytes."""
    return _need(given, options, engine).total


def _need(given: Sequence[SampleShape], options: ComparisonOptions, engine: ComputeConfig) -> _Need:
    """Features as sent (all layers), and of one layer the rows in order and at work in float64, the costliest case."""
    channels = [width for shape in given for width in shape.channels.values()]
    layers = max((len(shape.channels) for shape in given), default=0)
    per_row = 8 * (max((sum(shape.channels.values()) for shape in given), default=0) + max(channels, default=0))
    pairs = _distances(given, options)
    groups = sum(shape.groups for shape in given[:2])
    permuted = options.permutations * (2 * groups + 16 * layers)
    kernels = 1 + 2 * BANDWIDTHS if options.aggregated else 1
    most = max((shape.rows for shape in given), default=0)
    height, width = (min(side, most) for side in engine.tile_shape or default_tile_shape(engine.device))
    threads = choose_threads(engine.device, most**2 // max(height * width, 1) * 2)
    tiles = 8 * height * (width * (3 + kernels) + min(options.permutations, width)) * threads
    weights = 8 * width * min(options.permutations, width) * threads
    beside = 0
    if options.measures:
        per_row += 8 * max(channels, default=0)  # rows about their own mean
        side = min(most, max(channels, default=0)) if "frechet" in options.measures else 0
        beside = 8 * (4 * min(most**2, BLOCK_ENTRIES) + 3 * side**2)
    return _Need(sum(shape.rows for shape in given), per_row, 16 * pairs + permuted + tiles + weights + beside)


def _distances(given: Sequence[SampleShape], options: ComparisonOptions) -> int:
    """Pairs of rows whose distances are held at once, to take a bandwidth from."""
    fitted = given[:2] if options.bandwidth == "pooled_median" or len(given) < 3 else given[2:]
    taken = [fitted] if options.fixed_sigma is None and options.kernel not in WITHOUT_BANDWIDTH else []
    if options.aggregated:
        taken.append(given[:2])
    return max((min(sum(shape.rows for shape in some), EXACT_ROWS) ** 2 // 2 for some in taken), default=0)


def fits(given: Sequence[SampleShape], options: ComparisonOptions, engine: ComputeConfig) -> bool:
    """Whether a comparison of features at hand stays within the memory allowed."""
    return _need(given, options, engine).total <= engine.memory_bytes


def is_short(given: Sequence[SampleShape], options: ComparisonOptions, engine: ComputeConfig) -> bool:
    """Whether a comparison takes so little time and memory that it may run beside a long one.

    The rule affects only the order of work, never a result.

    Args:
        given: x, y and perhaps the reference.
        options: layers and permutations.
        engine: where it runs, and with how much memory.
    """
    rows = sum(shape.rows for shape in given)
    operations = rows**2 * sum(channels + options.permutations for channels in widths(given[0], options))
    return (
        operations <= SHORT_OPERATIONS
        and SHORT_MEMORY_SHARE * bytes_needed(given, options, engine) <= engine.memory_bytes
    )


def beside(reference: Sequence[SampleShape], engine: ComputeConfig) -> ComputeConfig:
    """The engine with the memory that a reference at hand leaves to streams."""
    held = 8 * sum(shape.rows * sum(shape.channels.values()) for shape in reference)
    return replace(engine, memory_bytes=engine.memory_bytes - held)


def refuse_too_large_to_stream(given: Sequence[SampleShape], options: ComparisonOptions, engine: ComputeConfig) -> None:
    """Refuses streams whose sums alone, or whose reference, do not fit; says what would.

    Raises:
        TooLarge: more memory is needed than is allowed; a retry is pointless.
    """
    x, y, *reference = given
    if reference:
        refuse_too_large(reference, replace(options, permutations=0, aggregated=False), engine)
    if options.estimator in estimators.SINGLE_PASS:
        return
    engine = beside(reference, engine)
    groups = x.groups if options.pairing == "paired" else x.groups + y.groups
    sizes = (x.rows,) if options.pairing == "paired" or options.method == "wild_bootstrap" else (x.rows, y.rows)
    nothing = np.broadcast_to(np.int8(0), (groups, options.permutations))
    out_of_core.plan_panels(
        max(x.channels.values(), default=1),
        Layout(sizes, np.zeros(0, np.int64), nothing),
        1 + 2 * BANDWIDTHS if options.aggregated else 1,
        engine.memory_bytes,
        precision="float64",
        shape=engine.tile_shape or default_tile_shape(engine.device),
    )


def refuse_too_large(given: Sequence[SampleShape], options: ComparisonOptions, engine: ComputeConfig) -> None:
    """Refuses what does not fit, with the size that would.

    Raises:
        TooLarge: more memory is needed than is allowed; a retry is pointless.
    """
    need = _need(given, options, engine)
    if need.total <= engine.memory_bytes:
        return
    fitting = (engine.memory_bytes - need.other_bytes) // need.bytes_per_row
    if fitting >= 2 * len(given):
        remedy = f"{fitting} rows over all samples would fit; send fewer rows, or fewer layers at once"
    else:
        remedy = "ask for fewer permutations, or fewer layers at once"
    raise TooLarge(
        f"{need.rows} rows and {options.permutations} permutations need {need.total / 2**20:.0f} MiB, and "
        f"{engine.memory_bytes / 2**20:.0f} MiB are allowed",
        subject="request",
        remedy=remedy,
    )


def check_permutations(permutations: int) -> None:
    """Refuses a number of permutations out of range.

    Raises:
        BadOption: below 0 or above the limit.
    """
    if not 0 <= permutations <= MAX_PERMUTATIONS:
        raise BadOption(
            f"expected 0 to {MAX_PERMUTATIONS} permutations, got {permutations}",
            field="test.permutations",
            remedy="1,000 are plenty for a p-value of 0.05",
        )


def check_measures(given: Sequence[SampleShape], options: ComparisonOptions, *, streamed: bool) -> None:
    """Refuses measures of what is larger than memory, and of more rows than they take.

    Args:
        given: x, y and perhaps the reference.
        options: the measures.
        streamed: whether x and y are read part by part.

    Raises:
        BadOption: the first measure that cannot be taken.
    """
    names = ("x", "y", "reference")
    fitted = 2 if len(given) > 2 else 0
    for measure in options.measures:
        if streamed:
            raise BadOption(
                f"`{measure}` is not taken of features that do not fit into memory",
                field="measures",
                remedy="leave it out, or allow more memory",
            )
        for index, shape in enumerate(given):
            for channels in widths(shape, options):
                check_size(measure, names[index], shape.rows, channels, fitted=index == fitted)


def check_projection(given: Sequence[Sample], options: ComparisonOptions) -> None:
    """Refuses a picture of more rows than a message should carry.

    Raises:
        BadOption: too many rows in x or y.
    """
    rows = max(sample.rows for sample in given[:2])
    if options.projection and any(sample.is_streamed for sample in given[:2]):
        raise BadOption(
            "features that do not fit into memory are not projected",
            field="projection",
            remedy="leave the projection out, or allow more memory",
        )
    if options.projection and rows > MAX_PROJECTED_ROWS:
        raise BadOption(
            f"at most {MAX_PROJECTED_ROWS} rows are projected, got {rows}",
            field="projection",
            remedy="leave the projection out, or send a part of the rows",
        )
