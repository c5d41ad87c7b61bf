"""MMD² by random Fourier features: one pass over two streams, in memory that does not grow with their rows.

With φ_r(x) = (cos ω_r·x, sin ω_r·x), MMD² is the mean over frequencies of |mean φ_r(x) − mean φ_r(y)|² (Rahimi and
Recht, NIPS 2007; Sutherland and Schneider, UAI 2015, sec. 3.3, with this pair of features, which has the smaller
variance). A mean over independent frequencies tells its own error. One term is known exactly: 1 − cos ω·(x̄ − ȳ) has the
mean 1 − k(x̄, ȳ), which serves as a control variate (Lavenberg and Welch, Management Science 27, 1981) and takes most
of the error away where the samples differ by a shift.

Rows are summed in buckets of whole groups, and the test and the jackknife take a bucket for a group: permutation
buckets is permutation groups, only in fewer ways.

Legend: N and M rows of x and y, I rows of a block, C channels, R frequencies, F = 2R features (cosines, then sines),
G buckets, B permutations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import stdtrit

from vfmalign.core.domain.errors import BadOption, BadTensor
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.engine import products
from vfmalign.mmd.engine.distributed import SINGLE_PROCESS, ProcessGroup
from vfmalign.mmd.engine.precision import UNIT_ROUNDOFF, PrecisionName
from vfmalign.mmd.engine.row_streams import RowStream, check_compatible
from vfmalign.mmd.engine.rows import FloatArray
from vfmalign.mmd.single_pass import spectra
from vfmalign.mmd.single_pass.feature_sums import (
    PairSums,
    RandomFeatureMap,
    SampleSums,
    make_buckets,
    make_proportional_buckets,
)
from vfmalign.mmd.single_pass.spectra import Spectrum
from vfmalign.mmd.statistics import permutations, uncertainty
from vfmalign.mmd.statistics.permutations import MIN_GROUPS, Permutations
from vfmalign.mmd.statistics.uncertainty import Estimate, Interval

ERROR_LEVEL = 0.99
BUCKETS = 1024
INTERVAL = "delete-one-bucket jackknife, and the variance over frequencies"
# Most bytes, and part of the memory allowed: of one block's rows, features and products, and of the buckets' sums,
# which permutation and leaving out hold twice more.
_BLOCK, _BUCKETS = (64 * 2**20, 8), (256 * 2**20, 4)
_PERMUTATIONS_AT_ONCE = 512


@dataclass(frozen=True)
class FourierEstimate:
    """MMD² by random frequencies, and how far it may be from the exact estimate.

    Attributes:
        mmd2: the estimate, with an interval that counts rows and frequencies as random.
        p_value: of the test on the features; exact at any number of frequencies.
        approximation_error: half-width of Student's t interval over frequencies at 99 %.
        guaranteed_error: the same with no assumption but independent frequencies (empirical Bernstein), much wider.
        rounding_error: bound on what the precision of the phases costs, six standard deviations.
        plain: the estimate without control variate, which `permuted_B` and `left_out` are comparable with.
        permuted_B: `plain` under each permutation.
        left_out: `plain` without each bucket, per sample resampled on its own; empty where there is no interval.
        tie_bound: rounding of `plain` against `permuted_B`.
        permutations: of the buckets.
        frequencies: R.
        buckets: G over both samples.
        precision: of the phases.
    """

    mmd2: Estimate
    p_value: Estimate
    approximation_error: float
    guaranteed_error: float
    rounding_error: float
    plain: float
    permuted_B: FloatArray
    left_out: tuple[FloatArray, ...]
    tie_bound: float
    permutations: Permutations
    frequencies: int
    buckets: int
    precision: PrecisionName


def fourier(
    x: RowStream,
    y: RowStream,
    *,
    paired: bool,
    sigma: float,
    kernel: str = "gaussian",
    biased: bool = False,
    frequencies: int = 0,
    seed: int = 0,
    permutations: int = 0,
    groups_x: Sequence[str] | None = None,
    groups_y: Sequence[str] | None = None,
    level: float = 0.95,
    precision: PrecisionName = "float32",
    device: torch.device | None = None,
    context: WorkContext = UNLIMITED,
    process_group: ProcessGroup = SINGLE_PROCESS,
    memory_bytes: int = 2**30,
) -> FourierEstimate:
    """Estimates MMD² in one pass.

    Args:
        x: first sample.
        y: second sample; with `paired`, row i of both is one case.
        paired: whether swaps within pairs or permutations of rows leave the null unchanged.
        sigma: bandwidth in feature units.
        kernel: a kernel of a distance.
        biased: the V-statistic, JMLR 2012, eq. (5). Otherwise the U-statistic: k(x_i, x_i) = 1 = |φ_r(x_i)|² leaves the
            sums at each frequency, which is eq. (3), or for pairs eq. (4), with k approximated.
        frequencies: R, 0 for 1,024; time grows with R, the error falls with √R.
        seed: of frequencies and permutations.
        permutations: B; 0 makes no test.
        groups_x: group of each row of x, or of each pair; None where each is a group of its own.
        groups_y: group of each row of y; unused for pairs.
        level: of the interval.
        precision: float32 or float64 phases; kernels with very high frequencies take float64 in any case.
        device: where features are formed.
        context: checked before every block.
        process_group: processes that share the blocks of rows.
        memory_bytes: bounds the blocks of rows and the number of buckets; more than 1 GiB is never used.

    Raises:
        BadOption: a kernel without frequencies, an option out of range.
        BadTensor: channels, rows or groups that do not fit, or too few rows.
    """
    check_compatible(x, y, paired=paired)
    if min(x.rows, y.rows) < (1 if biased else 2):
        raise BadTensor(f"an unbiased estimate needs at least 2 rows per sample, got {min(x.rows, y.rows)}", field="x")
    if not 0.0 < level < 1.0:
        raise BadOption(f"expected a level in (0, 1), got {level}", field="interval_level", remedy="use 0.95")
    spectrum = spectra.draw_spectrum(kernel, sigma, x.channels, frequencies, seed)
    precision = "float64" if spectrum.heavy_tailed or precision == "float64" else "float32"
    block_bytes, bucket_bytes = (min(most, memory_bytes // part) for most, part in (_BLOCK, _BUCKETS))
    embedding = RandomFeatureMap(
        spectrum, precision, device or torch.device("cpu"), x, block_bytes=block_bytes, process_group=process_group
    )
    most = max(4 * MIN_GROUPS, min(BUCKETS, bucket_bytes // (16 * spectrum.count)))
    samples: PairSums | SampleSums
    if paired:
        samples = PairSums(make_buckets(x.rows, groups_x, most, "x"), spectrum.count, embedding.device, biased=biased)
    else:
        pair = make_proportional_buckets(x.rows, y.rows, groups_x, groups_y, most)
        samples = SampleSums(*pair, spectrum.count, embedding.device, biased=biased)
    with products.matrix_units(precision, embedding.device):
        samples.fill(embedding, x, y, context)
    value, error = _controlled(
        samples.terms_R(), embedding.shift_R(x, y), spectrum.drop(embedding.mean_difference(x, y))
    )
    rounding = _rounding(samples.plain(), embedding.norm(x.rows + y.rows), spectrum, min(x.rows, y.rows), precision)
    return _result(
        samples,
        value,
        error,
        spectrum,
        rounding,
        permutations=permutations,
        seed=seed,
        level=level,
        precision=precision,
    )


def _controlled(terms_R: FloatArray, shift_R: FloatArray, expected: float) -> tuple[float, float]:
    """The mean over frequencies with the control variate 1 − cos(ω_r·(x̄ − ȳ)), and its standard error.

    Lavenberg and Welch (1981), eqs. (10)–(14) with one control: the regression line at the control's known mean.
    """
    control_R = 2.0 * np.sin(0.5 * shift_R) ** 2
    deviation_R = control_R - control_R.mean()
    spread = float(deviation_R @ deviation_R)
    count = terms_R.size
    if spread <= 1e-30 * count:
        return float(terms_R.mean()), float(terms_R.std(ddof=1)) / math.sqrt(count)
    slope = float(deviation_R @ terms_R) / spread
    off = float(control_R.mean()) - expected
    residual_R = terms_R - terms_R.mean() - slope * deviation_R
    variance = float(residual_R @ residual_R) / (count - 2)
    return float(terms_R.mean()) - slope * off, math.sqrt(variance * (1.0 / count + off**2 / spread))


def _bernstein(terms_R: FloatArray, term_range: float) -> float:
    """Half-width of the empirical Bernstein bound at 99 %, both sides (Maurer and Pontil, COLT 2009, thm 4)."""
    log = math.log(4.0 / (1.0 - ERROR_LEVEL))
    variance = float(terms_R.var(ddof=1))
    return math.sqrt(2.0 * variance * log / terms_R.size) + 7.0 * term_range * log / (3.0 * (terms_R.size - 1))


def _rounding(plain: float, norm: float, spectrum: Spectrum, rows: int, precision: PrecisionName) -> float:
    """A phase errs by about u·‖x‖‖ω‖ and a feature by 2u more; errors of different rows are independent.

    |mean φ(x) − mean φ(y)|² is at most 4/n more than the estimate, from which the diagonal was taken.
    """
    unit = UNIT_ROUNDOFF[precision]
    of_feature = unit * (norm * float(np.median(np.linalg.norm(spectrum.omega_RC, axis=1))) + 2.0)
    of_mean = math.sqrt(2.0 / rows) * of_feature
    largest = math.sqrt(max(plain + 4.0 / rows, 0.0))
    return 6.0 * (2.0 * largest * of_mean + of_mean**2) + 64.0 * UNIT_ROUNDOFF["float64"]


def _result(
    samples: PairSums | SampleSums,
    value: float,
    error: float,
    spectrum: Spectrum,
    rounding: float,
    *,
    permutations: int,
    seed: int,
    level: float,
    precision: PrecisionName,
) -> FourierEstimate:
    """Test, interval and bounds from the sums."""
    plain = samples.plain()
    chosen = _permutations(samples, permutations, seed)
    permuted_B = _permuted(samples, chosen)
    tie_bound = 256.0 * float(np.finfo(np.float64).eps)
    p_value = uncertainty.p_value(plain, permuted_B, tie_bound, chosen)
    left_out: tuple[FloatArray, ...] = ()
    reason = f"{samples.groups} buckets of groups are too few for an interval; it needs {MIN_GROUPS} per sample"
    interval = None
    if samples.groups >= MIN_GROUPS:
        left_out = samples.left_out()
        if min(part_G.size for part_G in left_out) < MIN_GROUPS:
            left_out = ()
    if left_out:
        interval, reason = _interval(value, error, left_out, level, p_value.value), ""
    return FourierEstimate(
        mmd2=Estimate(value, interval, reason),
        p_value=p_value,
        approximation_error=float(stdtrit(spectrum.count - 2, 0.5 + ERROR_LEVEL / 2.0)) * error,
        guaranteed_error=_bernstein(samples.terms_R(), samples.term_range) + abs(value - plain),
        rounding_error=rounding,
        plain=plain,
        permuted_B=permuted_B,
        left_out=left_out,
        tie_bound=tie_bound,
        permutations=chosen,
        frequencies=spectrum.count,
        buckets=samples.groups,
        precision=precision,
    )


def _permutations(samples: PairSums | SampleSums, count: int, seed: int) -> Permutations:
    """Permutations of buckets, or why there are none."""
    if count == 0:
        return permutations.no_permutations(samples.groups, "no test was requested")
    if samples.groups < MIN_GROUPS:
        reason = f"{samples.groups} buckets of groups are too few for a test; it needs at least {MIN_GROUPS}"
        return permutations.no_permutations(samples.groups, reason)
    return samples.permutations(count, seed)


def _permuted(samples: PairSums | SampleSums, chosen: Permutations) -> FloatArray:
    """Statistics of all permutations, some at a time."""
    parts = [np.zeros(0)]
    for start in range(0, chosen.weights_GB.shape[1], _PERMUTATIONS_AT_ONCE):
        weights_GB = torch.from_numpy(chosen.weights_GB[:, start : start + _PERMUTATIONS_AT_ONCE])
        parts.append(samples.permuted_B(weights_GB.to(samples.device, torch.float64)))
    return np.concatenate(parts)


def _interval(value: float, error: float, left_out: tuple[FloatArray, ...], level: float, p: float | None) -> Interval:
    """Jackknife variance of the rows and variance of the frequencies together, around the estimate."""
    rows = uncertainty.jackknife(value, left_out, level, p)
    quantile = float(stdtrit(min(part_G.size for part_G in left_out) - 1, 0.5 + level / 2.0))
    half = math.hypot(rows.upper - value, quantile * error)
    return Interval(value - half, value + half, level, INTERVAL, rows.degenerate)
