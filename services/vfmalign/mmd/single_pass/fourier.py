"""MMD² by random Fourier features, in one pass over two streams. Memory does not grow with the number of rows.

With φ_r(x) = (cos ω_r·x, sin ω_r·x), MMD² is the mean over frequencies of |mean φ_r(x) − mean φ_r(y)|² (Rahimi and
Recht, NIPS 2007). Of the two forms in Sutherland and Schneider (UAI 2015, sec. 3.3), this pair of features has the
smaller variance. The variance of the terms over the frequencies estimates the error of the mean. The term 1 − cos ω·(x̄
− ȳ) is a control variate (Lavenberg and Welch, Management Science 27, 1981), because its expectation 1 − k(x̄, ȳ) is
known. The control variate removes most of the error if the samples differ by a shift.

Rows are summed in buckets of whole groups. The test and the jackknife treat each bucket like a group. The test stays
exact, because each permutation of buckets is also a permutation of groups.

Legend: N rows of x, M rows of y, I rows of a block, C channels, R frequencies, F = 2R features (cosines, then sines), G
buckets, B permutations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import stdtrit

from vfmalign.client.messages.common import Estimate, Interval
from vfmalign.client.messages.mmd import ComputeOptions
from vfmalign.core.domain.errors import BadTensor
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.mmd.engine import products
from vfmalign.mmd.engine.compute_config import ComputeConfig
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

ERROR_LEVEL = 0.99
BUCKETS = 1024
INTERVAL = "delete-one-bucket jackknife, and the variance over frequencies"
# Largest number of bytes, and divisor of the memory budget: of a block's rows, features and products, and of the sums
# of the buckets. Permutations and the jackknife need two more arrays of the size of those sums.
_BLOCK, _BUCKETS = (64 * 2**20, 8), (256 * 2**20, 4)
_PERMUTATIONS_AT_ONCE = 512


@dataclass(frozen=True)
class FourierEstimate:
    """MMD² from random frequencies, with bounds on its difference from the exact estimate.

    Attributes:
        mmd2: the estimate. The interval covers the randomness of the rows and of the frequencies.
        p_value: p-value of the test on the random Fourier features. The test is exact for any number of frequencies.
        approximation_error: half-width of the 99 % interval for the exact MMD². It is Student's t interval over
            frequencies, for at least 256 frequencies. To measure its coverage, run
            `python -m bench.statistics --only fourier`.
        rounding_error: bound (six standard deviations) on the error from rounding phases.
        uncorrected: the estimate without the control variate. `permuted_B` and `left_out` contain values of
            `uncorrected`.
        permuted_B: `uncorrected` for each permutation.
        left_out: `uncorrected` without each bucket in turn. One array for paired samples, two arrays for independent
            samples; empty if there is no interval.
        tie_bound: largest difference that rounding can cause between `uncorrected` and an equal entry of `permuted_B`.
        permutations: permutations of the buckets.
        frequencies: number R of frequencies.
        buckets: number G of buckets of both samples.
        precision: precision in which phases are computed.
    """

    mmd2: Estimate
    p_value: Estimate
    approximation_error: float
    rounding_error: float
    uncorrected: float
    permuted_B: FloatArray
    left_out: tuple[FloatArray, ...]
    tie_bound: float
    permutations: Permutations
    frequencies: int
    buckets: int
    precision: PrecisionName


def fourier_mmd2(
    x: RowStream,
    y: RowStream,
    options: ComputeOptions,
    engine: ComputeConfig,
    *,
    sigma: float,
    precision: PrecisionName = "float32",
    groups_x: Sequence[str] | None = None,
    groups_y: Sequence[str] | None = None,
) -> FourierEstimate:
    """Estimates MMD² by random Fourier features in one pass.

    The U-statistic subtracts k(x_i, x_i) = |φ_r(x_i)|² = 1 from the sums at each frequency. The result is eq. (3) of
    JMLR 2012 with the approximated kernel. For pairs, the result is eq. (4).

    Args:
        x: first sample.
        y: second sample. In paired samples, row i of x and row i of y are the same case.
        options: pairing, kernel, frequencies, test and level of the interval. The time is proportional to the number R
            of frequencies. The error is proportional to 1/√R. For paired samples, the test swaps the rows of a pair.
        engine: device, memory, context and the processes that share the row blocks. The memory limit, but at most 1
            GiB, determines the size of blocks and the number of buckets.
        sigma: bandwidth in feature units.
        precision: precision of the phases, float32 or float64. Kernels with very high frequencies always use float64.
        groups_x: group of each row of x or, for paired samples, of each pair; None if each row is its own group.
        groups_y: group of each row of y; not used for paired samples.

    Raises:
        BadOption: random Fourier features do not exist for this kernel.
        BadTensor: the channels, rows or groups of the samples do not match, or there are too few rows.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    paired, test = options.pairing == "paired", options.test
    _check_rows(x, y, paired=paired)
    spectrum = spectra.draw_spectrum(options.kernel.family, sigma, x.channels, options.frequencies, test.seed)
    precision = "float64" if spectrum.heavy_tailed or precision == "float64" else "float32"
    block_bytes, bucket_bytes = (
        min(largest, engine.memory_bytes // divisor) for largest, divisor in (_BLOCK, _BUCKETS)
    )
    feature_map = RandomFeatureMap(spectrum, precision, x, engine, block_bytes=block_bytes)
    max_buckets = max(4 * MIN_GROUPS, min(BUCKETS, bucket_bytes // (16 * spectrum.count)))
    samples = _create_sums(x, y, (groups_x, groups_y), max_buckets, feature_map, paired=paired)
    with products.matrix_units(precision, feature_map.device):
        samples.fill(x, y, engine.context)
    return _result(samples, feature_map, x, y, options=options, context=engine.context)


def _check_rows(x: RowStream, y: RowStream, *, paired: bool) -> None:
    check_compatible(x, y, paired=paired)
    if min(x.rows, y.rows) < 2:
        raise BadTensor(f"an unbiased estimate needs at least 2 rows per sample, got {min(x.rows, y.rows)}", field="x")


def _create_sums(
    x: RowStream,
    y: RowStream,
    groups: tuple[Sequence[str] | None, Sequence[str] | None],
    max_buckets: int,
    feature_map: RandomFeatureMap,
    *,
    paired: bool,
) -> PairSums | SampleSums:
    """Creates empty sums of features for buckets of groups. Call `fill` next."""
    if paired:
        return PairSums(make_buckets(x.rows, groups[0], max_buckets, "x"), feature_map)
    pair = make_proportional_buckets(x.rows, y.rows, *groups, max_buckets)
    return SampleSums(*pair, feature_map)


@dataclass(frozen=True)
class _FrequencyMean:
    """Mean over frequencies, with its standard error and the degrees of freedom of this error."""

    value: float
    error: float
    degrees: float

    def get_half_width(self, level: float) -> float:
        """Returns the half-width of Student's t interval for the mean."""
        return float(stdtrit(self.degrees, 0.5 + level / 2.0)) * self.error


def _apply_control_variate(terms_R: FloatArray, phase_R: FloatArray, expected: float) -> _FrequencyMean:
    """Returns the mean over frequencies, corrected by the control variate 1 − cos(ω_r·(x̄ − ȳ)).

    The corrected mean is the regression line at the known mean of the control variate (Lavenberg and Welch, 1981, eqs.
    (10)–(14) with one control). If samples differ little, few frequencies determine the slope and the error. Equal
    variances and R − 2 degrees of freedom must therefore not be assumed. The standard error is HC3 (MacKinnon and
    White, J. Econometrics 29, 1985). The degrees of freedom are 2R/(kurtosis − 1), from the kurtosis of the terms
    (Satterthwaite, Biometrics Bull. 2, 1946).
    """
    count = terms_R.size
    control_R = 2.0 * np.sin(0.5 * phase_R) ** 2
    deviation_R = control_R - control_R.mean()
    sum_of_squares = float(deviation_R @ deviation_R)
    if sum_of_squares <= 1e-30 * count:
        deviation_R, sum_of_squares = np.zeros(count), 1.0
    slope = float(deviation_R @ terms_R) / sum_of_squares
    error_of_control = float(control_R.mean()) - expected
    residual_R = terms_R - terms_R.mean() - slope * deviation_R
    leverage_R = 1.0 / count + deviation_R**2 / sum_of_squares
    weight_R = 1.0 / count - error_of_control * deviation_R / sum_of_squares
    influence_R = weight_R * residual_R / np.maximum(1.0 - leverage_R, 1e-9)
    squares_R = influence_R**2
    variance = float(squares_R.sum())
    value = float(terms_R.mean()) - slope * error_of_control
    if variance == 0.0:
        return _FrequencyMean(value, 0.0, count - 2)
    kurtosis = count * float(np.square(squares_R / variance).sum())
    return _FrequencyMean(value, math.sqrt(variance), min(count - 2.0, 2.0 * count / max(kurtosis - 1.0, 2.0)))


def _rounding_bound(uncorrected: float, norm: float, spectrum: Spectrum, rows: int, precision: PrecisionName) -> float:
    """Returns a bound on rounding errors, which are assumed to be independent between rows.

    The error of a phase is about u·‖x‖‖ω‖, where u is the unit roundoff. A feature adds 2u.

    The estimate excludes the diagonal, so |mean φ(x) − mean φ(y)|² exceeds it by at most 4/n.
    """
    unit = UNIT_ROUNDOFF[precision]
    feature_error = unit * (norm * float(np.median(np.linalg.norm(spectrum.omega_RC, axis=1))) + 2.0)
    mean_error = math.sqrt(2.0 / rows) * feature_error
    largest = math.sqrt(max(uncorrected + 4.0 / rows, 0.0))
    return 6.0 * (2.0 * largest * mean_error + mean_error**2) + 64.0 * UNIT_ROUNDOFF["float64"]


def _result(
    samples: PairSums | SampleSums,
    feature_map: RandomFeatureMap,
    x: RowStream,
    y: RowStream,
    *,
    options: ComputeOptions,
    context: WorkContext,
) -> FourierEstimate:
    """Computes the estimate, the test, the interval and the bounds from the sums."""
    spectrum = feature_map.spectrum
    mean = _apply_control_variate(
        samples.terms_R(),
        feature_map.mean_phase_difference(x, y),
        spectrum.one_minus_kernel(feature_map.mean_difference(x, y)),
    )
    uncorrected = samples.uncorrected()
    norm, rows = feature_map.norm(x.rows + y.rows), min(x.rows, y.rows)
    drawn = _draw_permutations(samples, options.test.permutations, options.test.seed, context)
    permuted_B = _permuted_statistics(samples, drawn, context)
    tie_bound = 256.0 * float(np.finfo(np.float64).eps)
    p_value = uncertainty.p_value(uncorrected, permuted_B, tie_bound, drawn)
    left_out, reason = _left_out(samples, uncorrected, tie_bound)
    interval = _interval(mean, left_out, options.interval_level, p_value.value) if left_out else None
    return FourierEstimate(
        mmd2=Estimate(value=mean.value, interval=interval, absent_reason=reason),
        p_value=p_value,
        approximation_error=mean.get_half_width(ERROR_LEVEL),
        rounding_error=_rounding_bound(uncorrected, norm, spectrum, rows, feature_map.precision),
        uncorrected=uncorrected,
        permuted_B=permuted_B,
        left_out=left_out,
        tie_bound=tie_bound,
        permutations=drawn,
        frequencies=spectrum.count,
        buckets=samples.groups,
        precision=feature_map.precision,
    )


def _left_out(
    samples: PairSums | SampleSums, uncorrected: float, rounding: float
) -> tuple[tuple[FloatArray, ...], str]:
    """Returns the estimates without each bucket. If there is no interval, returns no estimates and the reason."""
    too_few = f"{samples.groups} buckets of groups are too few for an interval; it needs {MIN_GROUPS} per sample"
    if samples.groups < MIN_GROUPS:
        return (), too_few
    left_out = samples.left_out()
    if min(theta_G.size for theta_G in left_out) < MIN_GROUPS:
        return (), too_few
    if samples.has_large_groups:
        reason = uncertainty.bias_reason(uncorrected, samples.across_buckets(), left_out, rounding)
        return (() if reason else left_out), reason
    return left_out, ""


def _draw_permutations(samples: PairSums | SampleSums, count: int, seed: int, context: WorkContext) -> Permutations:
    """Draws permutations of buckets. If there is no test, returns no permutations and the reason."""
    if count == 0:
        return permutations.no_permutations(samples.groups, "no test was requested")
    if samples.groups < MIN_GROUPS:
        reason = f"{samples.groups} buckets of groups are too few for a test; it needs at least {MIN_GROUPS}"
        return permutations.no_permutations(samples.groups, reason)
    return samples.permutations(count, seed, context)


def _permuted_statistics(samples: PairSums | SampleSums, drawn: Permutations, context: WorkContext) -> FloatArray:
    """Returns the statistics of all permutations. Evaluates few permutations at a time to limit the memory."""
    statistics = [np.zeros(0)]
    for start in range(0, drawn.weights_GB.shape[1], _PERMUTATIONS_AT_ONCE):
        weights_GB = torch.from_numpy(drawn.weights_GB[:, start : start + _PERMUTATIONS_AT_ONCE])
        statistics.append(samples.permuted_B(weights_GB.to(samples.device, torch.float64), context))
    return np.concatenate(statistics)


def _interval(mean: _FrequencyMean, left_out: tuple[FloatArray, ...], level: float, p: float | None) -> Interval:
    """Returns an interval whose variance is the jackknife variance of the rows plus the variance over frequencies."""
    value = mean.value
    jackknife = uncertainty.jackknife(value, left_out, level, p)
    half = math.hypot(jackknife.upper - value, mean.get_half_width(level))
    return Interval(
        lower=value - half, upper=value + half, level=level, method=INTERVAL, degenerate=jackknife.degenerate
    )
