"""Estimators that read rows once and hold only a block of them: the linear-time estimator and the B-test.

Both average independent, unbiased estimates over consecutive rows. The average is therefore normal under the null as
well, and its standard error comes from the same pass. Only a part of all pairs is compared, so that the error is larger
than that of the exact estimators. The value depends on the order of the rows, which must be random.

Sources: Gretton et al., JMLR 13 (2012), sec. 6 (linear time: lemma 14, corollary 16); Zaremba, Gretton, Blaschko:
B-test, NIPS 2013, sec. 3 (blocks of √n rows by default).

Legend: N and M rows of x and y, I rows of a block, C channels, T estimates that are averaged, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import stdtr, stdtrit
from torch import Tensor

from vfmalign.client.messages.common import Estimate, Interval, absent
from vfmalign.core.domain.errors import BadOption, BadTensor
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.engine.kernels import BoundKernel
from vfmalign.mmd.engine.precision import Magnitudes, PrecisionName
from vfmalign.mmd.engine.row_streams import Grouping, RowStream, check_compatible, read_ahead
from vfmalign.mmd.engine.rows import IntArray, Rows, squared_norms
from vfmalign.mmd.engine.tiles import Layout, PairedMatrix, PooledMatrix, Sums, accumulate
from vfmalign.mmd.statistics.permutations import MIN_GROUPS

INTERVAL = "Student's t over independent estimates"
_READ_BYTES = 16 * 2**20
_CENTRE_ROWS = 64


@dataclass(frozen=True)
class AveragedEstimate:
    """The mean of independent estimates.

    Attributes:
        mmd2: the mean, unbiased, with its interval.
        p_value: one-sided, for MMD² > 0.
        standard_error: of the mean; NaN for a single estimate.
        estimates: number of averaged estimates.
        block_rows: rows of x in the smallest block; 2 for linear time.
        rows_used: rows of x and of y that entered the mean.
        precision: of kernel values.
        magnitudes: of the kernel over the centred rows; of no rows where distances come from differences.
        error_rows: n, for rounding errors that average out as those of n² kernel values.
    """

    mmd2: Estimate
    p_value: Estimate
    standard_error: float
    estimates: int
    block_rows: int
    rows_used: tuple[int, int]
    precision: PrecisionName
    magnitudes: Magnitudes
    error_rows: float


def linear_mmd2(
    x: RowStream,
    y: RowStream,
    kernel: BoundKernel,
    *,
    paired: bool,
    groups_x: Sequence[str] | None = None,
    groups_y: Sequence[str] | None = None,
    level: float = 0.95,
    device: torch.device | None = None,
    context: WorkContext = UNLIMITED,
) -> AveragedEstimate:
    """Return linear-time MMD², the mean of h over rows (1, 2), (3, 4), …, in float64 (JMLR 2012, lemma 14).

    h = k(x₁, x₂) + k(y₁, y₂) − k(x₁, y₂) − k(x₂, y₁) excludes k(x_i, y_i), so that it is unbiased for pairs as well.
    The first min(n, m) rows of both samples are used, except the last one of an odd number.

    Args:
        x: first sample.
        y: second sample; with `paired`, row i of both is one case.
        kernel: any kernel.
        paired: whether rows are pairs.
        groups_x: group of each row of x, or None; every row must be a group of its own, so that terms are independent.
        groups_y: group of each row of y, or None.
        level: of the interval.
        device: where kernels are evaluated.
        context: checked before every block that is read.

    Raises:
        BadOption: a group of several rows.
        BadTensor: channels or rows that do not match, or fewer than 2 rows.
    """
    check_compatible(x, y, paired=paired)
    for groups, rows, name in ((groups_x, x.rows, "x"), (groups_y, y.rows, "y")):
        if groups and Grouping.from_labels(groups, rows, name).count < rows:
            raise BadOption(
                f"`{name}` has groups of several rows, and the linear-time estimator needs independent rows",
                field="estimator",
                remedy="use the block estimator, which compares whole groups, or send one row per group",
            )
    used = min(x.rows, y.rows) // 2 * 2
    if used == 0:
        raise BadTensor(f"an estimate needs at least 2 rows per sample, got {min(x.rows, y.rows)}", field="x")
    device = device or torch.device("cpu")
    size = max(2, _READ_BYTES // (8 * x.channels) // 2 * 2)
    spans = [(start, min(start + size, used)) for start in range(0, used, size)]
    # The mean of the first block is subtracted from all terms, so that their variance does not cancel.
    total, squares, shift = 0.0, 0.0, 0.0
    magnitudes = Magnitudes(kernel)
    for number, (x_IC, y_IC) in enumerate(zip(_read(x, spans, device), _read(y, spans, device), strict=True)):
        context.checkpoint()
        if kernel.argument == "product":
            magnitudes.add(squared_norms(torch.cat([x_IC, y_IC])))
        h_T = _four_term_h(x_IC, y_IC, kernel)
        shift = float(h_T.mean()) if number == 0 else shift
        total += float((h_T - shift).sum())
        squares += float((h_T - shift).square().sum())
    count = used // 2
    variance = (squares - total**2 / count) / (count - 1) if count > 1 else math.nan
    return _averaged(
        shift + total / count,
        variance,
        count,
        level=level,
        block_rows=2,
        rows_used=(used, used),
        precision="float64",
        magnitudes=magnitudes,
        error_rows=math.sqrt(count),
    )


def block_mmd2(
    x: RowStream,
    y: RowStream,
    kernel: BoundKernel,
    *,
    paired: bool,
    block_rows: int = 0,
    groups_x: Sequence[str] | None = None,
    groups_y: Sequence[str] | None = None,
    level: float = 0.95,
    precision: PrecisionName = "float32",
    device: torch.device | None = None,
    context: WorkContext = UNLIMITED,
) -> AveragedEstimate:
    """Return the B-test's mean of unbiased estimates over blocks (JMLR 2012, eq. (4) for pairs, eq. (3) for samples).

    All rows are used: blocks differ by at most one row, and the larger of two samples has the larger blocks. With
    groups, a block consists of whole groups, whose rows must be contiguous, and two rows of one group are never
    compared: in a small block they would be a large share of all pairs and bias the mean.

    Args:
        x: first sample.
        y: second sample; with `paired`, row i of both is one case.
        kernel: any kernel.
        paired: whether rows are pairs.
        block_rows: least rows per block of the smaller sample; 0 for √n.
        groups_x: group of each row of x, or of each pair; None where each is a group of its own.
        groups_y: group of each row of y; unused for pairs.
        level: of the interval.
        precision: of kernel values.
        device: where kernels are evaluated.
        context: checked before every tile.

    Raises:
        BadOption: a block size out of range, groups that are not contiguous, or fewer than 2 groups.
        BadTensor: channels, rows or groups that do not match, or fewer than 2 rows.
    """
    check_compatible(x, y, paired=paired)
    grouping_x = Grouping.from_labels(groups_x, x.rows, "x")
    grouping_y = grouping_x if paired else Grouping.from_labels(groups_y, y.rows, "y")
    count = _count_blocks(min(x.rows, y.rows), min(grouping_x.count, grouping_y.count), block_rows)
    estimate = _estimate_pairs if paired else _estimate_samples
    values, magnitudes, error_rows = [], Magnitudes(kernel), math.inf
    for rows, groups in _read_blocks((x, y), (grouping_x, grouping_y), count, device or torch.device("cpu")):
        block = _prepare(*rows, kernel, precision)
        for sample in block:
            magnitudes.add(sample.norms_N)
            error_rows = min(error_rows, sample.effective_count)
        values.append(estimate(block, *groups, kernel, context))
    value_T = np.array(values)
    variance = float(value_T.var(ddof=1)) if count > 1 else math.nan
    return _averaged(
        float(value_T.mean()),
        variance,
        count,
        level=level,
        block_rows=min(stop - start for start, stop in grouping_x.spans(count)),
        rows_used=(x.rows, y.rows),
        precision=precision,
        magnitudes=magnitudes,
        error_rows=error_rows,
    )


def _read_blocks(
    streams: tuple[RowStream, RowStream], groupings: tuple[Grouping, Grouping], count: int, device: torch.device
) -> Iterator[tuple[tuple[Tensor, Tensor], tuple[IntArray, IntArray]]]:
    """Yield the rows of x and of y in every block, and the group of each row."""
    spans = [grouping.spans(count) for grouping in groupings]
    blocks = [_read(stream, of_stream, device) for stream, of_stream in zip(streams, spans, strict=True)]
    for span_x, span_y, x_IC, y_IC in zip(*spans, *blocks, strict=True):
        yield (x_IC, y_IC), (groupings[0].within(*span_x), groupings[1].within(*span_y))


def _count_blocks(rows: int, groups: int, block_rows: int) -> int:
    """Return the number of blocks for so many rows and groups of the smaller sample."""
    if rows < 2:
        raise BadTensor(f"an unbiased estimate needs at least 2 rows per sample, got {rows}", field="x")
    if block_rows != 0 and not 2 <= block_rows <= rows:
        raise BadOption(f"expected blocks of 2 to {rows} rows, got {block_rows}", field="block_rows", remedy="use 0")
    count = min(rows // (block_rows or max(2, math.isqrt(rows))), groups // 2)
    if count == 0:
        raise BadOption("an unbiased estimate needs at least 2 groups", field="groups", remedy="send more groups")
    return count


def _four_term_h(x_IC: Tensor, y_IC: Tensor, kernel: BoundKernel) -> Tensor:
    """Return h of rows (1, 2), (3, 4), …, with distances from differences, which do not cancel."""
    first, second = slice(0, None, 2), slice(1, None, 2)
    pairs = ((x_IC, x_IC), (y_IC, y_IC), (x_IC, y_IC), (y_IC, x_IC))
    if kernel.argument == "product":
        argument_4T = torch.stack([(a[first] * b[second]).sum(dim=1) for a, b in pairs])
    else:
        argument_4T = torch.stack([(a[first] - b[second]).square_().sum(dim=1) for a, b in pairs])
    xx, yy, xy, yx = kernel.evaluate(argument_4T, torch.empty_like(argument_4T))
    h_T: Tensor = xx + yy - xy - yx
    return h_T


def _estimate_pairs(
    block: tuple[Rows, Rows], group_I: IntArray, _: IntArray, kernel: BoundKernel, context: WorkContext
) -> float:
    """Return JMLR 2012, eq. (4) over one block, without pairs of rows of one group."""
    sums = _sums(PairedMatrix(*block), (len(group_I),), group_I, kernel, context)
    return float((sums.rows_NP.sum() - sums.within_G.sum()) / _pairs_across_groups(group_I))


def _estimate_samples(
    block: tuple[Rows, Rows], group_x: IntArray, group_y: IntArray, kernel: BoundKernel, context: WorkContext
) -> float:
    """Return JMLR 2012, eq. (3) over one block, without pairs of rows of one group."""
    x, y = block
    pooled = Rows(torch.cat([x.values_NK, y.values_NK]), torch.cat([x.norms_N, y.norms_N]), x.precision)
    n, groups = len(group_x), int(group_x[-1]) + 1
    group_of = np.concatenate([group_x, group_y + groups])
    sums = _sums(PooledMatrix(pooled), (n, len(group_y)), group_of, kernel, context)
    xx = (sums.rows_NP[:n, 0].sum() - sums.within_G[:groups].sum()) / _pairs_across_groups(group_x)
    yy = (sums.rows_NP[n:, 1].sum() - sums.within_G[groups:].sum()) / _pairs_across_groups(group_y)
    return float(xx + yy - 2.0 * sums.rows_NP[:n, 1].mean() / len(group_y))


def _sums(
    matrix: PairedMatrix | PooledMatrix,
    block_sizes: tuple[int, ...],
    group_of: IntArray,
    kernel: BoundKernel,
    context: WorkContext,
) -> Sums:
    """Return the sums of one block, including those within groups that the estimate excludes."""
    layout = Layout(block_sizes, group_of, np.zeros((int(group_of[-1]) + 1, 0), np.int8))
    return accumulate(matrix, [kernel], layout, context=context)[0]


def _pairs_across_groups(group_I: IntArray) -> float:
    """Count the ordered pairs of rows of different groups."""
    return float(len(group_I) ** 2 - (np.bincount(group_I) ** 2).sum())


def _prepare(x_IC: Tensor, y_IC: Tensor, kernel: BoundKernel, precision: PrecisionName) -> tuple[Rows, Rows]:
    """Round a block for the engine, centred where that does not change kernel values."""
    centre_C = torch.zeros_like(x_IC[0])
    if kernel.argument == "distance":
        # The median of a few rows: one outlier would move the mean away from all others (see `rows.central_point`).
        centre_C = x_IC[:_CENTRE_ROWS].median(dim=0).values
    return Rows.from_features(x_IC - centre_C, precision), Rows.from_features(y_IC - centre_C, precision)


def _read(stream: RowStream, spans: Sequence[tuple[int, int]], device: torch.device) -> Iterator[Tensor]:
    """Yield spans of rows in float64, reading ahead."""
    for block_IC in read_ahead(stream.read(start, stop) for start, stop in spans):
        yield block_IC.to(device).double()


def _averaged(
    value: float,
    variance: float,
    count: int,
    *,
    level: float,
    block_rows: int,
    rows_used: tuple[int, int],
    precision: PrecisionName,
    magnitudes: Magnitudes,
    error_rows: float,
) -> AveragedEstimate:
    """Return the mean with standard error, interval and one-sided p-value.

    Student's t replaces the normal distribution of the papers, which it approaches with many estimates. Under the null
    the estimates of blocks are skewed to the right, so that a test with few blocks is conservative (2 to 3 % rejections
    at a level of 5 % with 10 or 20 blocks).
    """
    error = math.sqrt(max(variance, 0.0) / count) if count > 1 else math.nan
    reason = ""
    if count < MIN_GROUPS:
        reason = f"{count} independent estimates are too few for a standard error; it needs at least {MIN_GROUPS}"
    elif error == 0.0 and value != 0.0:
        reason = "all estimates are equal, so that no standard error follows from them"
    mmd2, p_value = Estimate(value=value, absent_reason=reason), absent(reason)
    if not reason:
        half = float(stdtrit(count - 1, 0.5 + level / 2.0)) * error
        interval = Interval(lower=value - half, upper=value + half, level=level, method=INTERVAL)
        mmd2 = Estimate(value=value, interval=interval)
        p_value = Estimate(value=float(stdtr(count - 1, -value / error)) if error > 0.0 else 1.0)
    return AveragedEstimate(mmd2, p_value, error, count, block_rows, rows_used, precision, magnitudes, error_rows)
