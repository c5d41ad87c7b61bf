"""One exact comparison of two streams that are larger than memory, with its test and interval.

Knows streams, designs and results; `panels` forms the sums. Of several processes that share the work, each forms its
part of the sums and `combine` adds them up, so that all of them come to the same answer.

Legend: N rows of both streams, G groups, B relabellings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from vfmalign.core.errors import BadOption
from vfmalign.mmd import bandwidths, estimators, panels, precision, relabelling, rows, samples, uncertainty
from vfmalign.mmd.compare import check_options
from vfmalign.mmd.designs import Design, Statistics, design_of
from vfmalign.mmd.engine import Layout, Sums
from vfmalign.mmd.kernels import KERNELS, WITHOUT_BANDWIDTH, Kernel
from vfmalign.mmd.panels import Streamed
from vfmalign.mmd.precision import PrecisionName
from vfmalign.mmd.products import has_matrix_units
from vfmalign.mmd.relabelling import Relabellings
from vfmalign.mmd.results import Engine, Options, Shift
from vfmalign.mmd.rows import Affine
from vfmalign.mmd.samples import Sample
from vfmalign.mmd.streams import Grouping, RowStream, check_alike, take
from vfmalign.mmd.uncertainty import Estimate

_NO_GRID = "no test over a grid of bandwidths was asked for"

Combine = Callable[[list[Sums]], list[Sums]]


def shift_of(
    x: RowStream,
    y: RowStream,
    options: Options,
    engine: Engine,
    *,
    groups_x: Sequence[str] = (),
    groups_y: Sequence[str] = (),
    share: tuple[int, int] = (0, 1),
    combine: Combine = lambda sums: sums,
) -> Shift:
    """MMD² of two streams, exactly as `compare` forms it from arrays, within `engine.memory_bytes`.

    Args:
        x: first sample.
        y: second sample; of paired samples, row i of both is one case.
        options: estimator, kernel, bandwidth (a fixed σ or the pooled median), test and level; layers, projection and
            the test over a grid do not go with streams.
        engine: device, memory, least precision, tiles.
        groups_x: group of each row of x, or of each pair, rows of a group beside each other; empty for single rows.
        groups_y: the same of y.
        share: (rank, ranks) of processes that share the tiles.
        combine: adds up the sums of all ranks.

    Raises:
        BadOption: an option out of range or that does not go with streams, groups that are not neighbours.
        BadTensor: rows that are not finite or do not fit together.
        Exhausted: not even two small blocks of rows fit into the memory; says what would.
        Cancelled: `engine.between_tiles` said so.
    """
    _check(x, y, options)
    design = _design(x, y, options, groups_x, groups_y)
    estimator = estimators.resolve(options.pairing, options.estimator, options.method)
    if min(x.rows, y.rows) < estimators.smallest_rows(estimator):
        reason = f"an unbiased estimate needs at least 2 rows per sample, got {min(x.rows, y.rows)}"
        absent = Estimate(None, absent_reason=reason)
        return Shift(absent, 0.0, absent, absent, 0, False, 0.0, False, "float64", absent)
    sigma = options.fixed_sigma or 0.0
    if options.kernel not in WITHOUT_BANDWIDTH and options.fixed_sigma is None:
        sigma = pooled_median(x, y, engine)
    kernel = KERNELS[options.kernel](sigma, x.channels)
    chosen = precision.choose(
        options.precision or engine.precision,
        x.rows + y.rows,
        x.channels,
        engine.device,
        matrix_units=has_matrix_units(engine.device),
    )
    relabellings = _relabellings(design, options)
    streamed = panels.accumulate(
        x,
        y,
        [kernel],
        Layout(design.block_sizes, design.group_of, relabellings.weights_GB),
        memory_bytes=engine.memory_bytes,
        precision=chosen,
        device=engine.device,
        tile_shape=engine.tile_shape,
        between_tiles=engine.between_tiles,
        share=share,
    )
    sums = combine(streamed.sums)[0]
    statistics = design.statistics(estimator, sums, relabellings)
    bound = _bound(streamed, sums, kernel, design, chosen=chosen, channels=x.channels)
    return _shift(statistics, bound, sigma=sigma, chosen=chosen, relabellings=relabellings, options=options)


def pooled_median(x: RowStream, y: RowStream, engine: Engine) -> float:
    """σ as `compare` takes it from x and y together: the median distance of all rows, or of a fixed draw of many.

    It grows with the shift it should measure: values with such a bandwidth cannot be ranked.

    Raises:
        BadOption: all rows are equal.
    """
    check_alike(x, y, paired=False)
    total = x.rows + y.rows
    drawn = bandwidths.sampled(total)
    wanted = np.arange(total) if drawn is None else drawn
    of_x, of_y = wanted[wanted < x.rows], wanted[wanted >= x.rows] - x.rows
    parts = [
        take(stream, chosen.tolist()).cpu().double().numpy() for stream, chosen in ((x, of_x), (y, of_y)) if len(chosen)
    ]
    centre_C = rows.mean(parts[0])
    prepared = rows.prepare([(part, None) for part in parts], Affine(centre_C), "float64", torch.device(engine.device))
    return bandwidths.median(prepared, "features", engine.between_tiles)


def _check(x: RowStream, y: RowStream, options: Options) -> None:
    """Refuses what streams cannot give."""
    check_options(options, has_reference=False)
    check_alike(x, y, paired=options.pairing == "paired" or options.method == "wild_bootstrap")
    for asked, field in (
        (options.aggregated, "test.aggregated"),
        (options.projection, "projection"),
        (options.estimator in estimators.STREAMED, "estimator"),
    ):
        if asked:
            raise BadOption(
                "does not go with an exact comparison of streams",
                field=field,
                remedy="leave it out, or send arrays that fit into memory",
            )


def _design(x: RowStream, y: RowStream, options: Options, groups_x: Sequence[str], groups_y: Sequence[str]) -> Design:
    """The design of samples that are only known by their sizes and groups.

    Raises:
        BadOption: rows of a group that are not neighbours, which only reordering could bring together.
    """
    as_x, as_y = (
        Sample(name, {"": np.broadcast_to(np.float32(0.0), (stream.rows, 1))}, tuple(groups))
        for name, stream, groups in (("x", x, groups_x), ("y", y, groups_y))
    )
    samples.check_relation(as_x, as_y, options.pairing)
    return design_of(_numbered(as_x), _numbered(as_y), options)


def _numbered(sample: Sample) -> Sample:
    """The same groups, called by numbers that ascend with the rows."""
    grouping = Grouping.of(sample.groups, sample.rows, sample.name)
    if grouping.edges is None:
        return sample
    return Sample(sample.name, sample.layers, tuple(f"{group:012d}" for group in grouping.within(0, sample.rows)))


def _relabellings(design: Design, options: Options) -> Relabellings:
    if options.relabellings == 0:
        return relabelling.none(design.groups, "no test was asked for")
    return design.relabellings(options.relabellings, options.seed)


def _bound(
    streamed: Streamed, sums: Sums, kernel: Kernel, design: Design, *, chosen: PrecisionName, channels: int
) -> float:
    """The error bound of the pass, with the rows taken as different from each other."""
    sizes = design.block_sizes
    fewest = min(sizes)
    witness_N = sums.rows_NP[:, 0] / sizes[0]
    if len(sizes) == 2:
        witness_N = witness_N - sums.rows_NP[:, 1] / sizes[1]
    bound = precision.error_bound(
        slope=kernel.slope,
        norm=streamed.norm,
        channels=channels,
        rows=fewest,
        witness=float(np.sqrt(np.mean(np.square(witness_N)))),
        largest=1.0 if kernel.argument == "distance" else float(np.abs(sums.diagonal_N).max()),
        precision=chosen,
    )
    return bound * fewest / max(fewest - 1, 1)


def _shift(
    statistics: Statistics,
    bound: float,
    *,
    sigma: float,
    chosen: PrecisionName,
    relabellings: Relabellings,
    options: Options,
) -> Shift:
    """The result; nothing is computed again where digits are lost, as that would read everything again."""
    p = uncertainty.p_value(statistics.observed, statistics.relabelled_B, bound, relabellings)
    interval = None
    if statistics.left_out:
        interval = uncertainty.jackknife(statistics.observed, statistics.left_out, options.interval_level, p.value)
    return Shift(
        mmd2=Estimate(statistics.observed, interval, statistics.interval_absent_reason),
        sigma=sigma,
        p_value=p,
        p_value_max_t=p,
        relabellings=relabellings.count,
        enumerated=relabellings.enumerated,
        error_bound=bound,
        digits_lost=abs(statistics.observed) <= bound,
        precision=chosen,
        aggregated_p_value=Estimate(None, absent_reason=_NO_GRID),
    )
