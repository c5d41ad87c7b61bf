"""The two answers of a check. Each answer has a label and a sentence that explains the label.

A check answers two questions: is the model better than the specialised network, and does pretraining help? Each answer
compares a difference of scores (`rpg_specialised.absolute`, `rpg_scratch.absolute`) with 0 and with the smallest
relevant difference of the metric. Relative gain, shift, p-values and convergence do not affect the answers. The labels
`gain`, `harm` and `equivalent` need enough trainings, because scores vary from training to training. These labels also
need enough patients, because no test detects a subgroup that the sample does not contain.
"""

from __future__ import annotations

import math

from scipy.special import stdtrit

from vfmalign.analysis.gains.equivalence import (
    MIN_DIFFERENT,
    TWO_CLASS_METHOD,
    count_patients_for_equivalence,
)
from vfmalign.client.messages.checks import Gain, GainVariance, VerdictLabel
from vfmalign.client.messages.common import Interval
from vfmalign.client.recipes import MIN_SHARE, TrainingBudget
from vfmalign.core.domain.jobs import MetricSpec
from vfmalign.core.domain.patients import MIN_FOR_CLAIM, MIN_GROUPS, MIN_SEEDS, describe_unseen_subgroup
from vfmalign.core.domain.record import Record
from vfmalign.core.formats.documents import pluralise

SPECIALISED = "the specialised network"
SCRATCH = "the same network without pretraining"
"""Names of the two answers' baselines in sentences."""
FROZEN_RANDOM = "frozen random weights"
"""Name of the further baseline of a check that freezes the encoder."""
_CLAIMS: frozenset[VerdictLabel] = frozenset({"gain", "harm", "equivalent"})


class Verdict(Record):
    """Answer to one of a check's two questions: a label and the reason for it."""

    label: VerdictLabel
    reason: str

    @property
    def undecidable(self) -> bool:
        """Whether the label names a reason for which there is no verdict."""
        return self.label in {"insufficient_data", "insufficient_training"}


def decide_verdict(
    gain: Gain,
    metric: MetricSpec,
    *,
    held_out: bool,
    seeds: int,
    shortest: TrainingBudget | None = None,
    baseline: str = SPECIALISED,
) -> Verdict:
    """Answers one of the check's two questions. The answer depends on the gain over a baseline.

    The label is `equivalent` if the equivalence interval lies strictly within ± the smallest relevant difference. An
    interval that is marked as degenerate (`equivalence`) never gives this label. In all other cases, the label is
    `gain` if the interval lies strictly above 0, `harm` if the interval lies strictly below 0, and `inconclusive` if
    the interval contains 0. The label of an irrelevant difference is therefore `equivalent` even if its interval
    excludes 0. With fewer than `MIN_FOR_CLAIM` patients or `MIN_SEEDS` training seeds, `inconclusive` replaces these
    labels. If a network was trained for too few steps, the label is always `insufficient_training`.

    Args:
        gain: gain over the baseline.
        metric: metric of the scores. If the metric's smallest relevant difference is 0, the label is never
            `equivalent`.
        held_out: whether the test cases were kept apart from training, validation and pretraining.
        seeds: number of training seeds.
        shortest: smallest training budget of all networks; None if every network has the budget of its preset.
        baseline: name of the baseline, as the reason shows it.
    """
    if shortest is not None and not shortest.suffices:
        return Verdict(
            label="insufficient_training",
            reason=f"the {shortest.network} network was trained for {shortest}; a verdict needs at least "
            f"{100 * MIN_SHARE:g} %",
        )
    if not held_out:
        return Verdict(label="insufficient_data", reason="no case was held out: the scores are descriptive only")
    if gain.groups < MIN_GROUPS:
        return Verdict(
            label="insufficient_data",
            reason=f"{pluralise(gain.groups, 'test patient')}; a verdict needs at least {MIN_GROUPS}",
        )
    if gain.absolute.value is None or (gain.absolute.interval is None and gain.equivalence_interval is None):
        return Verdict(label="insufficient_data", reason=gain.absolute.absent_reason)
    label, conclusion = _compare(gain, metric)
    reasons = [f"{_describe(gain, gain.absolute.value, metric, baseline)}: {conclusion}", explain_limits(gain, metric)]
    if seeds < MIN_SEEDS:
        reasons.append(
            f"with {pluralise(seeds, 'training')} of each network, the verdict is `inconclusive`: `gain`, `equivalent` "
            f"and `harm` need {MIN_SEEDS} training seeds"
        )
    if label in _CLAIMS and (seeds < MIN_SEEDS or _count_patients(gain) < MIN_FOR_CLAIM):
        label = "inconclusive"
    if label == "inconclusive":
        reasons.append(explain_precision(gain, metric))
    return Verdict(label=label, reason="; ".join(filter(None, reasons)))


def explain_limits(gain: Gain, metric: MetricSpec) -> str:
    """Explains that there are too few patients for a rare subgroup or for equivalence; empty if there are enough."""
    limits = []
    if (label := _compare(gain, metric)[0]) in _CLAIMS:
        count = _count_patients(gain)
        patients = pluralise(count, "test patient") + (" of the smaller class" if gain.smaller_class else "")
        chance = describe_unseen_subgroup(count)
        if count < MIN_FOR_CLAIM:
            limits.append(f"{patients} are too few for `{label}`, which needs at least {MIN_FOR_CLAIM}: {chance}")
        else:
            limits.append(f"with {patients}, {chance}, and no interval allows for differences that none of them shows")
    narrow = gain.equivalence_interval
    if narrow is not None and metric.smallest_difference and label == "inconclusive":
        needed = count_patients_for_equivalence(metric, narrow.level)
        if (gain.smaller_class or gain.groups // 2) < needed:
            bound = f"±{metric.smallest_difference:g}{_get_unit(metric)}"
            limits.append(f"`equivalent` within {bound} needs about {needed} patients of each of two equal classes")
    return "; ".join(limits)


def explain_precision(gain: Gain, metric: MetricSpec) -> str:
    """Describes the interval's half-width, now and with twice as many seeds or patients; empty if unknown."""
    variance, interval = gain.variance, gain.absolute.interval
    if variance is None or interval is None:
        return ""
    now, *more = (
        _project_half_width(gain, variance, interval.level, seeds=seeds, patients=patients)
        for seeds, patients in ((1, 1), (2, 1), (1, 2))
    )
    # The projection ignores skewness and negative components, so its ratios are more accurate than its absolute values.
    half = (interval.upper - interval.lower) / 2.0
    halves = [half, *(half * one / now if now else 0.0 for one in more)]
    width, more_seeds, more_patients = (f"±{format_score(one, metric, finer=1)}{_get_unit(metric)}" for one in halves)
    return (
        f"the interval is {width} wide, with twice the seeds about {more_seeds}, with twice the patients about "
        f"{more_patients}"
    )


def _project_half_width(gain: Gain, variance: GainVariance, level: float, *, seeds: int, patients: int) -> float:
    """Returns the half-width for multiples of the seeds and patients, computed from the variance components."""
    n_network, n_baseline = seeds * variance.seeds, seeds * (variance.baseline_seeds or variance.seeds)
    n_patients, draws = patients * gain.groups, 1.0 / n_baseline + (variance.another_draw > 0.0)
    network, baseline = variance.network, variance.baseline
    terms = [
        ((network.seed + network.residual / n_patients) / n_network, n_network - 1),
        ((baseline.seed + baseline.residual / n_patients) * draws, n_baseline - 1),
        (variance.difference.patient / n_patients, patients * _count_patients(gain) - 1),
    ]
    total = sum(term for term, _ in terms)
    degrees = total**2 / sum(term**2 / freedom for term, freedom in terms) if total else 1.0
    return float(stdtrit(degrees, 0.5 + level / 2.0) * total**0.5)


def format_score(value: float, metric: MetricSpec, sign: str = "", *, finer: int = 0) -> str:
    """Formats a value without its unit, rounded to a tenth of the smallest relevant difference.

    `finer` is the number of additional decimals.
    """
    bound = metric.smallest_difference
    decimals = (min(9, max(0, 1 - math.floor(math.log10(bound)))) if bound else 3) + finer
    value = round(value, decimals)
    return f"{value or 0.0:{sign if value else ''}.{decimals}f}".replace("-", "\u2212")


def _count_patients(gain: Gain) -> int:
    """Returns the number of patients that support a claim: with two classes, the patients of the smaller class."""
    return gain.smaller_class or gain.groups


def _compare(gain: Gain, metric: MetricSpec) -> tuple[VerdictLabel, str]:
    """Returns the label by the intervals alone, ignoring the number of patients, and describes the intervals."""
    interval, narrow, bound = gain.absolute.interval, gain.equivalence_interval, metric.smallest_difference
    within = narrow is not None and -bound < narrow.lower and narrow.upper < bound
    if narrow is not None and within and not narrow.degenerate:
        return "equivalent", f"the {_format_narrow(narrow, metric)} lies within ±{bound:g}{_get_unit(metric)}"
    if interval is not None and interval.lower > 0:
        return "gain", "the interval lies above zero"
    if interval is not None and interval.upper < 0:
        return "harm", "the interval lies below zero"
    start = "the interval includes zero" if interval is not None else gain.absolute.absent_reason
    if narrow is None or not bound or (interval is None and narrow.degenerate):
        return "inconclusive", start
    if within:
        few = f"the scores of fewer than {MIN_DIFFERENT} patients differ, too few to show equivalence"
        return "inconclusive", f"{start}, and {few}"
    exceeds = f"the {_format_narrow(narrow, metric)} exceeds ±{bound:g}{_get_unit(metric)}"
    return "inconclusive", f"{start}, and {exceeds}"


def _describe(gain: Gain, difference: float, metric: MetricSpec, baseline_name: str) -> str:
    """Describes the two scores, their difference with its interval, and the smallest relevant difference."""
    unit, name, interval = _get_unit(metric), metric.title, gain.absolute.interval
    score, baseline = (format_score(value or 0.0, metric) + unit for value in (gain.score, gain.baseline))
    direction = "" if metric.higher_is_better else "positive is better; "
    bound = metric.smallest_difference
    ends = "no interval" if interval is None else _format_interval(interval, metric)
    return (
        f"test {name} {score} against {baseline} of {baseline_name}: "
        f"difference {format_score(difference, metric, '+')}{unit} ({direction}{ends})"
        + (f", smallest relevant difference {bound:g}{unit}" if bound else "")
    )


def _format_interval(interval: Interval, metric: MetricSpec) -> str:
    # An end needs another decimal if it would round to one of the bounds that it is compared with.
    bounds = {format_score(sign * metric.smallest_difference, metric) for sign in (-1, 0, 1)}
    ends = (interval.lower, interval.upper)
    finer = int(any(format_score(end, metric) in bounds for end in ends))
    lower, upper = (format_score(end, metric, "+", finer=finer) for end in ends)
    return f"{100 * interval.level:g} % interval {lower} to {upper}{_get_unit(metric)}"


def _format_narrow(narrow: Interval, metric: MetricSpec) -> str:
    """Formats the equivalence interval. For two classes, explains why it is wider than the interval of the gain."""
    unseen = ", which allows for errors that no test patient shows," if narrow.method == TWO_CLASS_METHOD else ""
    return f"{_format_interval(narrow, metric)}{unseen}"


def _get_unit(metric: MetricSpec) -> str:
    return f" {metric.unit}" if metric.unit else ""
