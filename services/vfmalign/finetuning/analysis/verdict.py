"""Verdict of a check: a label and the sentence that explains it.

The verdict compares the difference of the scores (`rpg_specialised.absolute`) with 0 and with the smallest relevant
difference of the metric. Relative gain, shift, p-values and convergence do not enter it.
"""

from __future__ import annotations

import math

from vfmalign.client.messages.checks import Gain, VerdictLabel
from vfmalign.client.messages.common import Interval
from vfmalign.core.domain.documents import pluralise
from vfmalign.core.domain.jobs import MetricSpec
from vfmalign.core.domain.record import Record
from vfmalign.finetuning.analysis.equivalence import MIN_DIFFERENT, TWO_CLASS_METHOD
from vfmalign.finetuning.analysis.gain import MIN_GROUPS


class Verdict(Record):
    """One of five labels, and the reason."""

    label: VerdictLabel
    reason: str


def decide_verdict(gain: Gain, metric: MetricSpec, *, held_out: bool) -> Verdict:
    """Derives the verdict from the gain over the specialised network.

    `equivalent` if the equivalence interval lies strictly within ± the smallest relevant difference and is not marked
    (`equivalence`); else `gain` or `harm` if the interval lies strictly above or below 0; else `inconclusive`. A
    difference that is proven to be irrelevant is therefore `equivalent` even if it is also proven not to be 0.

    Args:
        gain: gain over the specialised baseline.
        metric: the metric of the scores, with its smallest relevant difference; nothing is equivalent where that is 0.
        held_out: whether the test cases were kept apart from training, validation and pretraining.
    """
    if not held_out:
        return Verdict(label="insufficient_data", reason="no case was held out: the scores are descriptive only")
    if gain.groups < MIN_GROUPS:
        return Verdict(
            label="insufficient_data",
            reason=f"{pluralise(gain.groups, 'test patient')}; a verdict needs at least {MIN_GROUPS}",
        )
    interval = gain.absolute.interval
    if interval is None or gain.absolute.value is None:
        return Verdict(label="insufficient_data", reason=gain.absolute.absent_reason)
    label, conclusion = _compare(interval, gain.equivalence_interval, metric)
    return Verdict(label=label, reason=f"{_describe(gain, gain.absolute.value, interval, metric)}: {conclusion}")


def format_score(value: float, metric: MetricSpec, sign: str = "") -> str:
    """Formats a value without its unit, to a tenth of the smallest relevant difference or finer."""
    bound = metric.smallest_difference
    decimals = min(9, max(0, 1 - math.floor(math.log10(bound)))) if bound else 3
    return f"{value:{sign}.{decimals}f}".replace("-", "\u2212")


def _compare(interval: Interval, narrow: Interval | None, metric: MetricSpec) -> tuple[VerdictLabel, str]:
    """Returns the label, and how the intervals lie."""
    bound = metric.smallest_difference
    within = narrow is not None and -bound < narrow.lower and narrow.upper < bound
    if narrow is not None and within and not narrow.degenerate:
        return "equivalent", f"the {_format_narrow(narrow, metric)} lies within ±{bound:g}{_get_unit(metric)}"
    if interval.lower > 0:
        return "gain", "the interval lies above zero"
    if interval.upper < 0:
        return "harm", "the interval lies below zero"
    if narrow is None or not bound:
        return "inconclusive", "the interval includes zero"
    if within:
        few = f"the scores of fewer than {MIN_DIFFERENT} patients differ, too few to show equivalence"
        return "inconclusive", f"the interval includes zero, and {few}"
    exceeds = f"the {_format_narrow(narrow, metric)} exceeds ±{bound:g}{_get_unit(metric)}"
    return "inconclusive", f"the interval includes zero, and {exceeds}"


def _describe(gain: Gain, difference: float, interval: Interval, metric: MetricSpec) -> str:
    """Returns the two scores, and their difference with its interval beside the smallest relevant difference."""
    unit, name = _get_unit(metric), metric.title
    score, baseline = (format_score(value or 0.0, metric) + unit for value in (gain.score, gain.baseline))
    direction = "" if metric.higher_is_better else "positive is better; "
    bound = metric.smallest_difference
    return (
        f"test {name} {score} against {baseline} of the specialised network: "
        f"difference {format_score(difference, metric, '+')}{unit} ({direction}{_format_interval(interval, metric)})"
        + (f", smallest relevant difference {bound:g}{unit}" if bound else "")
    )


def _format_interval(interval: Interval, metric: MetricSpec) -> str:
    lower, upper = format_score(interval.lower, metric, "+"), format_score(interval.upper, metric, "+")
    return f"{100 * interval.level:g} % interval {lower} to {upper}{_get_unit(metric)}"


def _format_narrow(narrow: Interval, metric: MetricSpec) -> str:
    """Formats the equivalence interval, and says what makes it wider than the other one of two classes."""
    unseen = ", which allows for errors that no test patient shows," if narrow.method == TWO_CLASS_METHOD else ""
    return f"{_format_interval(narrow, metric)}{unseen}"


def _get_unit(metric: MetricSpec) -> str:
    return f" {metric.unit}" if metric.unit else ""
