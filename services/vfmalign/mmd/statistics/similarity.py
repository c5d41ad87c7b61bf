"""Measures of shift other than MMD: CKA, Fréchet distance and energy distance.

    from vfmalign.mmd.statistics import similarity

    similarity.cka(before, after).value              # numpy, [rows, channels]; 1: the same up to rotation and scale
    similarity.frechet(before, after, train).value
    similarity.energy(before, after, paired=True).value

A measure is a single value without a test or an interval. Each measure is computed in float64 on the CPU, in time
proportional to rows² · channels. The memory contains the centred rows and a few blocks of 2²⁰ entries.

Legend: N rows of x, M rows of y, F rows of the reference, R rows of any sample, C channels, A principal axes, S =
min(R, C), I rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from vfmalign.core.domain.errors import BadOption, BadTensor
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.engine.products import MAX_FLOP_UNCHECKED
from vfmalign.mmd.engine.row_streams import FeatureArray
from vfmalign.mmd.engine.rows import FloatArray, central_point

MAX_ROWS = 8192
"""Maximum number of rows of a sample. The time grows with the square of this number."""
MAX_EIGEN_SIZE = 1536
"""Maximum size min(rows, channels) of an eigenproblem. At this size, it takes 0.5 s and cannot be cancelled."""
MAX_AXES = 64
"""Maximum number of principal axes for the Fréchet distance. The bias grows with this number."""
BLOCK_ENTRIES = 2**20
"""Maximum number of entries of one block of a product or distance matrix."""

LARGEST_FEATURE = 1e70
"""Maximum absolute value of a feature. Sums of fourth powers of larger values would overflow."""

_MIN_RELATIVE_VARIANCE = 1e-10  # of an axis; eigenvectors with smaller variances are no longer orthogonal
_MIN_RELATIVE_HSIC = 1e-12
_MIN_RELATIVE_DISTANCE = 1e-4  # squared, to ‖x‖²: smaller ones would lose more than four digits to cancellation


@dataclass(frozen=True)
class MeasureValue:
    """Value of a measure.

    Attributes:
        value: value of the measure; None if `absent_reason` is set.
        dimension: number of channels or principal axes from which the value was computed; 0 if there is no value.
        absent_reason: why there is no value; empty if there is a value.
    """

    value: float | None
    dimension: int = 0
    absent_reason: str = ""


@dataclass(frozen=True)
class MeasureInput:
    """Samples from which a measure is computed.

    Attributes:
        x_NC, y_MC: standardised rows.
        reference_FC: rows that determine the principal axes; None to use x.
        paired: whether row i of x and row i of y come from the same case.
        context: checked before every block of rows.
    """

    x_NC: FeatureArray
    y_MC: FeatureArray
    reference_FC: FeatureArray | None = None
    paired: bool = False
    context: WorkContext = UNLIMITED


def cka(x: FeatureArray, y: FeatureArray, *, context: WorkContext = UNLIMITED) -> MeasureValue:
    """Returns the debiased linear centred kernel alignment of paired rows: a similarity from −1 to 1.

    The similarity is HSIC₁(K, L) / √(HSIC₁(K, K) HSIC₁(L, L)) with K = xxᵀ and L = yyᵀ. Kornblith et al., ICML 2019,
    introduced this ratio. Nguyen, Raghu and Kornblith, ICLR 2021, introduced its unbiased terms. HSIC₁ is the unbiased
    estimator of Song et al., JMLR 13 (2012), where K̃ is K with a diagonal of zeros:

        HSIC₁ = [tr K̃L̃ + 1ᵀK̃1·1ᵀL̃1/((n−1)(n−2)) − 2/(n−2)·1ᵀK̃L̃1] / (n(n−3))

    The similarity does not change if either sample is translated, rotated or scaled equally in all directions.

    Args:
        x: features (n, c) of n = 4 to 8,192 cases.
        y: features (n, d) of the same cases. The number of channels d may differ from c.
        context: checked before every block of rows.

    Raises:
        BadTensor: an array does not have two axes, contains NaN, infinity or values above 1e70, or the row counts
            differ.
        BadOption: there are more rows than the limit.
    """
    rows_x, rows_y = _to_float64("cka", "x", x), _to_float64("cka", "y", y)
    count = len(rows_x)
    if len(rows_y) != count:
        raise BadTensor(f"CKA needs pairs of rows, got {count} and {len(rows_y)}", field="y")
    if count < 4:
        return MeasureValue(None, absent_reason=f"debiased CKA needs at least 4 rows, got {count}")
    for name, rows_RC in (("x", rows_x), ("y", rows_y)):
        if (rows_RC == rows_RC[:1]).all():
            return MeasureValue(None, absent_reason=f"all rows of {name} are equal, so that CKA is undefined")
    products = np.zeros(3)  # tr K̃K̃, tr L̃L̃, tr K̃L̃
    sums_R2 = np.empty((count, 2))
    k_RC, l_RC = _centred_unit(rows_x), _centred_unit(rows_y)
    for span in _blocks(count, count):
        block_k, block_l = _without_diagonal(k_RC, span, context), _without_diagonal(l_RC, span, context)
        products += [np.vdot(block_k, block_k), np.vdot(block_l, block_l), np.vdot(block_k, block_l)]
        sums_R2[span] = np.stack([block_k.sum(axis=1), block_l.sum(axis=1)], axis=1)
    hsic_xx, hsic_yy, hsic_xy = (
        _hsic(product, sums_R2[:, first], sums_R2[:, second])
        for product, (first, second) in zip(products, ((0, 0), (1, 1), (0, 1)), strict=True)
    )
    min_xx, min_yy = _MIN_RELATIVE_HSIC * products[:2] / (count * (count - 3))
    if hsic_xx <= min_xx or hsic_yy <= min_yy:
        return MeasureValue(None, absent_reason="all distances between rows are equal, so that CKA is undefined")
    return MeasureValue(float(hsic_xy / np.sqrt(hsic_xx) / np.sqrt(hsic_yy)), rows_x.shape[1])


def frechet(
    x: FeatureArray, y: FeatureArray, reference: FeatureArray | None = None, *, context: WorkContext = UNLIMITED
) -> MeasureValue:
    """Returns the squared Fréchet distance of Gaussians that are fitted to x and y on the reference's principal axes.

    The distance is ‖μ_x − μ_y‖² + tr(S_x + S_y − 2(S_x S_y)^½), the d² of Dowson and Landau, J. Multivariate Anal. 12
    (1982); S is computed with the divisor n − 1. The QR decomposition of the centred rows yields S = RᵀR. tr (S_x
    S_y)^½ is then the sum of the singular values of R_x R_yᵀ. This avoids the square root of a matrix that may be
    singular. The axes are the leading principal axes of the reference. The number of axes is less than half the rows of
    the smallest sample, at most 64, and at most the rank of the reference. The distance is biased upwards. The bias is
    proportional to the number of axes divided by the number of rows. Do not compare distances of samples that differ in
    size or dimension.

    Args:
        x: features (n, c).
        y: features (m, c).
        reference: features (r, c); None to use x. Each sample must have 3 to 8,192 rows. At least one of r and c must
            be at most 1,536.
        context: checked before every matrix product. The decomposition takes up to 0.5 s without a check.

    Raises:
        BadTensor: an array does not have two axes, contains NaN, infinity or values above 1e70, or channel counts
            differ.
        BadOption: there are more rows than the limit.
    """
    samples = [_to_float64("frechet", "x", x, fitted=reference is None), _to_float64("frechet", "y", y)]
    samples.append(samples[0] if reference is None else _to_float64("frechet", "reference", reference, fitted=True))
    _check_channels(samples)
    fewest = min(map(len, samples))
    if fewest < 3:
        reason = f"a Fréchet distance needs at least 3 rows in each sample and in the reference, got {fewest}"
        return MeasureValue(None, absent_reason=reason)
    # If all rows are equal, differences to the first row are exactly 0; differences to the mean may be rounding errors.
    fitted_FC = samples[2] - samples[2][0]
    fitted_FC -= fitted_FC.mean(axis=0)
    axes_CA = _principal_axes(fitted_FC, min((fewest - 1) // 2, MAX_AXES), context)
    if axes_CA.shape[1] == 0:
        return MeasureValue(None, absent_reason="no channel varies over the sample that the axes are fitted on")
    x_NA, y_MA = (_multiply(sample, axes_CA, context) for sample in samples[:2])
    mean_x, mean_y = x_NA.mean(axis=0), y_MA.mean(axis=0)
    root_x, root_y = (
        linalg.qr(sample - mean, mode="r")[0][: axes_CA.shape[1]] / np.sqrt(len(sample) - 1.0)
        for sample, mean in ((x_NA, mean_x), (y_MA, mean_y))
    )
    common = linalg.svdvals(root_x @ root_y.T).sum()
    value = np.square(mean_x - mean_y).sum() + np.square(root_x).sum() + np.square(root_y).sum() - 2.0 * common
    return MeasureValue(float(value), axes_CA.shape[1])


def energy(x: FeatureArray, y: FeatureArray, *, paired: bool = False, context: WorkContext = UNLIMITED) -> MeasureValue:
    """Returns the energy distance 2E‖X−Y‖ − E‖X−X'‖ − E‖Y−Y'‖ (Székely and Rizzo, J. Stat. Plan. Inference 143 (2013)).

    The estimate is unbiased, because its means are over i ≠ j. If rows are paired, this holds for the cross term too.
    The energy distance is the unbiased MMD² of the same pairing with the kernel −‖x−y‖ (Sejdinovic et al., Ann.
    Statist. 41 (2013)) and may therefore be negative. For one channel, scipy.stats.energy_distance is the square root
    of the biased form. The means of that form are over all i and j.

    Args:
        x: features (n, c) with n from 2 to 8,192.
        y: features (m, c) with m from 2 to 8,192.
        paired: whether row i of x and row i of y come from the same case; if so, n must equal m.
        context: checked before every block of rows.

    Returns:
        The estimate in units of the features.

    Raises:
        BadTensor: an array does not have two axes, contains NaN, infinity or values above 1e70, or the channel counts
            or paired row counts differ.
        BadOption: there are more rows than the limit.
    """
    x_NC, y_MC = _to_float64("energy", "x", x), _to_float64("energy", "y", y)
    _check_channels([x_NC, y_MC])
    n, m = len(x_NC), len(y_MC)
    if paired and n != m:
        raise BadTensor(f"paired samples need equal row counts, got {n} and {m}", field="y")
    if min(n, m) < 2:
        return MeasureValue(None, absent_reason=f"an energy distance needs at least 2 rows per sample, got {min(n, m)}")
    centre_C = central_point(x_NC, context)
    x_NC, y_MC = x_NC - centre_C, y_MC - centre_C

    def mean(a_RC: FloatArray, b_RC: FloatArray, *, include_diagonal: bool) -> float:
        pairs = len(a_RC) * (len(b_RC) if include_diagonal else len(b_RC) - 1.0)
        return _sum_of_distances(a_RC, b_RC, include_diagonal=include_diagonal, context=context) / pairs

    across = mean(x_NC, y_MC, include_diagonal=not paired)
    within = mean(x_NC, x_NC, include_diagonal=False) + mean(y_MC, y_MC, include_diagonal=False)
    return MeasureValue(2.0 * across - within, x_NC.shape[1])


MEASURES: dict[str, Callable[[MeasureInput], MeasureValue]] = {
    "cka": lambda samples: cka(samples.x_NC, samples.y_MC, context=samples.context),
    "frechet": lambda samples: frechet(samples.x_NC, samples.y_MC, samples.reference_FC, context=samples.context),
    "energy": lambda samples: energy(samples.x_NC, samples.y_MC, paired=samples.paired, context=samples.context),
}
"""Maps the name of each measure to its function."""
PAIRED_MEASURES = frozenset({"cka"})
"""Names of the measures that are defined only for paired samples."""


def check_size(measure: str, sample: str, rows: int, channels: int, *, fitted: bool) -> None:
    """Checks the size of a sample against the limits.

    Args:
        measure: a name in `MEASURES`.
        sample: name of the sample in errors.
        rows: number of rows of the sample.
        channels: number of channels of the sample.
        fitted: whether principal axes are computed from this sample.

    Raises:
        BadOption: the sample is too large.
    """
    if rows > MAX_ROWS:
        raise BadOption(
            f"`{measure}` takes at most {MAX_ROWS} rows of a sample, got {rows} in `{sample}`",
            field="measures",
            remedy=f"leave out `{measure}`, or send a subset of the rows",
        )
    if measure == "frechet" and fitted and min(rows, channels) > MAX_EIGEN_SIZE:
        raise BadOption(
            f"`{measure}` fits axes on a sample of at most {MAX_EIGEN_SIZE} rows or channels, got {rows} rows of "
            f"{channels} channels in `{sample}`",
            field="measures",
            remedy=f"leave out `{measure}`, or send a reference of at most {MAX_EIGEN_SIZE} rows",
        )


def _to_float64(measure: str, name: str, rows: FeatureArray, *, fitted: bool = False) -> FloatArray:
    """Checks a sample and returns its rows in float64."""
    rows_RC: FloatArray = np.asarray(rows, dtype=np.float64)
    if rows_RC.ndim != 2 or 0 in rows_RC.shape:
        raise BadTensor(f"expected shape [rows, channels], got {list(rows_RC.shape)}", field=name)
    check_size(measure, name, *rows_RC.shape, fitted=fitted)
    if not np.isfinite(rows_RC).all():
        raise BadTensor("contains NaN or infinity", field=name, remedy="leave out rows without valid features")
    if float(np.abs(rows_RC).max()) > LARGEST_FEATURE:
        raise BadTensor(f"contains values above {LARGEST_FEATURE:g}", field=name, remedy="scale the features down")
    return rows_RC


def _check_channels(samples: list[FloatArray]) -> None:
    """Checks that samples have the same number of channels."""
    widths = [rows_RC.shape[1] for rows_RC in samples]
    if len(set(widths)) > 1:
        raise BadTensor(
            f"samples have different numbers of channels: {widths}",
            field="y",
            remedy="compare features of the same layer",
        )


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    """Yields row ranges of a matrix. Each range contains at most `BLOCK_ENTRIES` entries."""
    step = max(1, BLOCK_ENTRIES // columns)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _centred_unit(rows_RC: FloatArray) -> FloatArray:
    """Centres rows and scales them so that the largest absolute entry is 1.

    The ratio of HSICs does not change, and its sums neither overflow nor lose digits to a large mean.
    """
    centred_RC: FloatArray = rows_RC - rows_RC.mean(axis=0)
    centred_RC /= np.abs(centred_RC).max()
    return centred_RC


def _without_diagonal(rows_RC: FloatArray, span: slice, context: WorkContext) -> FloatArray:
    """Returns some rows of the product matrix, with a diagonal of zeros."""
    block_IR = _multiply(rows_RC[span], rows_RC.T, context)
    block_IR[np.arange(len(block_IR)), np.arange(span.start, span.stop)] = 0.0
    return block_IR


def _multiply(a_IK: FloatArray, b_KJ: FloatArray, context: WorkContext) -> FloatArray:
    """Returns a matrix product. Checks `context` first and, in a large product, before each block of rows."""
    step = max(1, MAX_FLOP_UNCHECKED // (2 * b_KJ.size))
    if step >= len(a_IK):
        context.checkpoint()
        return np.asarray(a_IK @ b_KJ)
    product_IJ = np.empty((len(a_IK), b_KJ.shape[1]))
    for start in range(0, len(a_IK), step):
        context.checkpoint()
        np.matmul(a_IK[start : start + step], b_KJ, out=product_IJ[start : start + step])
    return product_IJ


def _hsic(product: float, k_R: FloatArray, l_R: FloatArray) -> float:
    """Returns HSIC₁ from tr K̃L̃ and the row sums of K̃ and of L̃."""
    n = float(len(k_R))
    correction = k_R.sum() * l_R.sum() / ((n - 1.0) * (n - 2.0)) - 2.0 / (n - 2.0) * (k_R @ l_R)
    return float((product + correction) / (n * (n - 3.0)))


def _principal_axes(fitted_FC: FloatArray, max_axes: int, context: WorkContext) -> FloatArray:
    """Returns the leading principal axes of centred rows, [C, A]. A is at most `max_axes` and at most the rank."""
    rows, channels = fitted_FC.shape
    side = min(rows, channels)
    wide_SM = fitted_FC if rows < channels else fitted_FC.T
    products = _multiply(wide_SM, wide_SM.T, context)
    count = min(max_axes, side)
    variance_A, vectors_SA = linalg.eigh(products, subset_by_index=(side - count, side - 1))
    significant_A = variance_A > _MIN_RELATIVE_VARIANCE * max(variance_A[-1], 0.0)
    vectors_SA = vectors_SA[:, significant_A]
    if rows >= channels:
        return np.asarray(vectors_SA)
    axes_CA: FloatArray = fitted_FC.T @ vectors_SA / np.sqrt(variance_A[significant_A])
    return axes_CA


def _replace_small(
    squares_IR: FloatArray, a_IC: FloatArray, b_RC: FloatArray, norms_I: FloatArray, context: WorkContext
) -> None:
    """Recomputes squared distances of rows that are so close to each other that the distances lost digits."""
    limits_I = _MIN_RELATIVE_DISTANCE * norms_I
    candidates = np.flatnonzero(squares_IR.min(axis=1) < limits_I)  # few rows: a mask of all entries takes longer
    rows, columns = np.nonzero(squares_IR[candidates] < limits_I[candidates, None])
    rows = candidates[rows]
    step = max(1, BLOCK_ENTRIES // a_IC.shape[1])
    for start in range(0, len(rows), step):
        context.checkpoint()
        pairs = rows[start : start + step], columns[start : start + step]
        squares_IR[pairs] = np.square(a_IC[pairs[0]] - b_RC[pairs[1]]).sum(axis=1)


def _sum_of_distances(a_RC: FloatArray, b_RC: FloatArray, *, include_diagonal: bool, context: WorkContext) -> float:
    """Returns Σ_ij ‖a_i − b_j‖, with or without the terms i = j."""
    total = 0.0
    squares_a, squares_b = (np.square(rows_RC).sum(axis=1) for rows_RC in (a_RC, b_RC))
    for span in _blocks(len(a_RC), len(b_RC)):
        block_IR = _multiply(a_RC[span], b_RC.T, context)
        block_IR *= -2.0
        block_IR += squares_a[span, None]
        block_IR += squares_b
        diagonal = np.arange(len(block_IR)), np.arange(span.start, span.start + len(block_IR))
        if not include_diagonal:
            block_IR[diagonal] = np.inf  # not small, so that `_replace_small` skips it
        _replace_small(block_IR, a_RC[span], b_RC, squares_a[span], context)
        np.sqrt(np.maximum(block_IR, 0.0, out=block_IR), out=block_IR)
        if not include_diagonal:
            block_IR[diagonal] = 0.0
        total += float(block_IR.sum())
    return total
