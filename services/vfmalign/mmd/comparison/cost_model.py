"""How much a comparison computes, estimated from sizes alone: short ones may run between two tiles of a long one.

Knows sizes and options. An estimate decides the order of work, never a result, and is right within a small factor.

Legend: R rows of both samples, D channels, B permutations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from vfmalign.mmd.comparison import memory_budget
from vfmalign.mmd.comparison.memory_budget import BANDWIDTHS, Extent
from vfmalign.mmd.comparison.options import Engine, Options
from vfmalign.mmd.engine.kernels import WITHOUT_BANDWIDTH
from vfmalign.mmd.statistics.bandwidths import EXACT_ROWS

FLOP_PER_S = {"cpu": 5e10, "cuda": 5e12}
"""What a small device does without effort in the precision in which small comparisons run."""
SHORT_MEMORY_SHARE = 4
"""A short comparison takes at most this part of the memory that one may take: it comes on top of the paused one."""
SHORT_FEATURE_BYTES = 64 * 2**20

_FLOP_PER_KERNEL = 20  # an exponential with its sums
_FLOP_PER_SORTED = 500  # a distance's part of a median
_GRID = 2 * BANDWIDTHS  # kernels of an aggregated test
_FREQUENCIES = 1024


def seconds(given: Sequence[Extent], options: Options, engine: Engine) -> float:
    """A rough time of computing, without reading.

    Args:
        given: x, y and perhaps the reference.
        options: what is asked.
        engine: where it runs.
    """
    rows = float(sum(extent.rows for extent in given[:2]))
    kernels = _GRID if options.aggregated else 1
    fitted = rows if options.bandwidth == "pooled_median" else float(sum(extent.rows for extent in given[2:]))
    pairs = 0.0 if options.kernel in WITHOUT_BANDWIDTH or options.fixed_sigma else min(fitted, EXACT_ROWS) ** 2 / 2.0
    pairs += min(rows, EXACT_ROWS) ** 2 / 2.0 if options.aggregated else 0.0
    flop = sum(
        _one_pass(rows, width, kernels, options)
        + rows**2 * options.permutations * kernels
        + pairs * (2.0 * width + _FLOP_PER_SORTED)
        for width in memory_budget.widths(given[0], options)
    )
    flop *= 2 if len(given) > 2 else 1
    beside = sum(
        _measures(rows, float(given[-1].rows), width, options) for width in memory_budget.widths(given[0], options)
    )
    return flop / FLOP_PER_S.get(engine.device.type, FLOP_PER_S["cpu"]) + beside / FLOP_PER_S["cpu"]


def is_short(given: Sequence[Extent], options: Options, engine: Engine, short_s: float) -> bool:
    """Whether a comparison takes so little time and memory that it may run within a paused one."""
    features = 8 * sum(extent.rows * sum(extent.channels.values()) for extent in given)
    return (
        features <= SHORT_FEATURE_BYTES
        and SHORT_MEMORY_SHARE * memory_budget.bytes_needed(given, options, engine) <= engine.memory_bytes
        and seconds(given, options, engine) <= short_s
    )


def _measures(rows: float, fitted: float, channels: int, options: Options) -> float:
    """Operations of the measures beside MMD², which are made on the CPU."""
    side = min(fitted, channels)
    flop = {
        "cka": rows**2 * channels,
        "frechet": 2.0 * fitted * channels * side + 4.0 * side**3,
        "energy": rows**2 * (2.0 * channels + _FLOP_PER_KERNEL),
    }
    return sum(flop[name] for name in options.measures)


def _one_pass(rows: float, channels: int, kernels: int, options: Options) -> float:
    """Operations for one layer in one scaling, without permutations; exact estimators take the upper half of rows²."""
    per_pair = 2.0 * channels + kernels * _FLOP_PER_KERNEL
    if options.estimator == "linear":
        return 2.0 * rows * per_pair
    if options.estimator == "block":
        return 2.0 * rows * (options.block_rows or math.sqrt(rows / 2.0)) * per_pair
    if options.estimator == "random_fourier":
        return rows * (options.frequencies or _FREQUENCIES) * per_pair
    return 0.5 * rows**2 * per_pair
