"""How shift and convergence vary with the training seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.special import stdtrit

from vfmalign.analysis.checks.records import SeedAnalysis
from vfmalign.client.messages.checks import Gain, LayerSummary, SeedSummary, SeedVariation, Steps, StepsSummary
from vfmalign.client.messages.common import Estimate, Interval, absent

METHOD = "Student's t over seeds and jackknife over patients, half-widths added in squares"


def summarise_seeds(seeds: Sequence[SeedAnalysis]) -> SeedVariation:
    """Summarises the shift of every layer and the convergence of the pretrained network.

    Args:
        seeds: results of at least two seeds.
    """
    layers = []
    for layer in seeds[0].shift.layers:
        every = [seed.shift.get_layer(layer.layer) for seed in seeds]
        standardised = [one.standardised.mmd2 for one in every if one.standardised is not None]
        layers.append(
            LayerSummary(
                layer=layer.layer,
                raw=summarise_estimates([one.raw.mmd2 for one in every]),
                standardised=summarise_estimates(standardised) if len(standardised) == len(seeds) else None,
            )
        )
    numbers = [seed.seed for seed in seeds]
    convergence = [seed.network("pretrained").convergence for seed in seeds]
    return SeedVariation(
        layers=tuple(layers),
        steps_to_95=summarise_steps(numbers, [one.steps_to_95 for one in convergence]),
        steps_to_baseline=summarise_steps(numbers, [one.steps_to_baseline for one in convergence]),
        specialised_deviation=_get_deviation([seed.rpg_specialised for seed in seeds]),
        scratch_deviation=_get_deviation([seed.rpg_scratch for seed in seeds]),
    )


def _get_deviation(gains: Sequence[Gain]) -> float | None:
    values = [gain.absolute.value for gain in gains if gain.absolute.value is not None]
    return statistics.stdev(values) if len(values) == len(gains) else None


def summarise_estimates(estimates: Sequence[Estimate]) -> SeedSummary:
    """Averages an estimate over the seeds. The interval covers the variation between patients and between trainings.

    All seeds are measured on the same patients, so averaging does not reduce the variation between patients. The
    squared half-width is therefore the sum of two terms. The first term is the squared half-width of a Student's t
    interval over the S seeds with S − 1 degrees of freedom. The second term is the mean of the squared half-widths of
    the seeds' intervals, which cover patients. Patients contribute to both terms, so the interval is wider than
    necessary.

    Args:
        estimates: estimate of each seed. All intervals cover patients and have the same level.
    """
    values = [estimate.value for estimate in estimates if estimate.value is not None]
    if len(values) < len(estimates):
        return SeedSummary(mean=absent(next(one.absent_reason for one in estimates if one.value is None)))
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    intervals = [estimate.interval for estimate in estimates if estimate.interval is not None]
    if len(intervals) < len(estimates):
        reason = next(one.absent_reason for one in estimates if one.interval is None)
        return SeedSummary(mean=Estimate(value=mean, absent_reason=reason), standard_deviation=deviation)
    level = intervals[0].level
    over_seeds = float(stdtrit(len(values) - 1, 0.5 + level / 2.0)) * deviation / len(values) ** 0.5
    over_patients = statistics.fmean(((interval.upper - interval.lower) / 2.0) ** 2 for interval in intervals) ** 0.5
    half = math.hypot(over_seeds, over_patients)
    interval = Interval(
        lower=mean - half,
        upper=mean + half,
        level=level,
        method=METHOD,
        degenerate=any(interval.degenerate for interval in intervals),
    )
    return SeedSummary(mean=Estimate(value=mean, interval=interval), standard_deviation=deviation)


def summarise_steps(seeds: Sequence[int], steps: Sequence[Steps]) -> StepsSummary:
    """Averages steps over the seeds.

    If any seed's value is absent, the mean is absent. If any value is censored, the mean is a lower bound.

    Args:
        seeds: seeds of the trainings. If the mean is absent, its reason names the seeds without a value.
        steps: number of optimiser steps of each training, in the order of the seeds.
    """
    missing = [f"seed {seed}: {one.absent_reason}" for seed, one in zip(seeds, steps, strict=True) if one.value is None]
    values = [one.value for one in steps if one.value is not None]
    if missing:
        return StepsSummary(absent_reason="; ".join(missing))
    censored = tuple(seed for seed, one in zip(seeds, steps, strict=True) if one.censored)
    return StepsSummary(
        mean=statistics.fmean(values),
        standard_deviation=None if censored else statistics.stdev(values),
        censored_seeds=censored,
    )
