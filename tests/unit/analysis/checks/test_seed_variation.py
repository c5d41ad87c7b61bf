"""Shift and convergence over training seeds."""

import numpy as np
import pytest
from scipy import stats

from vfmalign.analysis.checks.seed_variation import summarise_estimates, summarise_steps
from vfmalign.client.messages.checks import Steps
from vfmalign.client.messages.common import Estimate, Interval

GROUPS = 12


def estimate(value, standard_error, **fields):
    half = stats.t.ppf(0.95, GROUPS - 1) * standard_error
    return Estimate(
        value=value, interval=Interval(lower=value - half, upper=value + half, level=0.9, method="jackknife", **fields)
    )


def test_the_half_width_of_a_mean_adds_those_over_seeds_and_over_patients_in_squares():
    errors = (0.02, 0.03, 0.04)
    summary = summarise_estimates(
        [estimate(value, error) for value, error in zip((0.1, 0.2, 0.4), errors, strict=True)]
    )
    deviation = np.std([0.1, 0.2, 0.4], ddof=1)
    over_seeds = stats.t.ppf(0.95, 2) * deviation / np.sqrt(3)
    over_patients = stats.t.ppf(0.95, GROUPS - 1) * np.sqrt(np.mean(np.square(errors)))
    half = np.hypot(over_seeds, over_patients)
    mean = summary.mean.value
    assert mean == pytest.approx(0.7 / 3)
    assert summary.standard_deviation == pytest.approx(deviation)
    assert (summary.mean.interval.lower, summary.mean.interval.upper) == pytest.approx((mean - half, mean + half))
    assert summary.mean.interval.level == 0.9


def test_equal_seeds_have_the_interval_of_one():
    one = estimate(0.3, 0.05)
    summary = summarise_estimates([one, one])
    assert summary.standard_deviation == 0
    assert (summary.mean.interval.lower, summary.mean.interval.upper) == pytest.approx(
        (one.interval.lower, one.interval.upper)
    )


def test_a_degenerate_interval_of_one_seed_makes_the_mean_s_degenerate():
    summary = summarise_estimates([estimate(0.1, 0.1), estimate(0.1, 0.1, degenerate=True)])
    assert summary.mean.interval.degenerate


def test_a_missing_interval_or_value_is_explained():
    without = Estimate(value=0.2, absent_reason="4 patients: an interval needs at least 8")
    summary = summarise_estimates([estimate(0.1, 0.1), without])
    assert (summary.mean.value, summary.mean.interval) == (pytest.approx(0.15), None)
    assert summary.mean.absent_reason == without.absent_reason
    summary = summarise_estimates([estimate(0.1, 0.1), Estimate(absent_reason="no features")])
    assert (summary.mean.value, summary.mean.absent_reason, summary.standard_deviation) == (None, "no features", None)


def test_steps_are_averaged():
    summary = summarise_steps([7, 8], [Steps(value=40), Steps(value=60)])
    assert (summary.mean, summary.standard_deviation) == (50, pytest.approx(np.std([40, 60], ddof=1)))
    assert summary.censored_seeds == ()


def test_a_censored_seed_makes_the_mean_a_bound_without_spread_and_is_named():
    summary = summarise_steps([7, 8, 9], [Steps(value=40), Steps(value=60, censored=True), Steps(value=50)])
    assert (summary.mean, summary.standard_deviation, summary.censored_seeds) == (50, None, (8,))


def test_a_seed_without_steps_leaves_no_mean_and_is_named():
    summary = summarise_steps([7, 8], [Steps(value=40), Steps(absent_reason="the rise is within noise")])
    assert (summary.mean, summary.standard_deviation) == (None, None)
    assert summary.absent_reason == "seed 8: the rise is within noise"
