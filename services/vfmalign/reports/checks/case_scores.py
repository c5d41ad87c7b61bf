"""Summaries of the scores of test cases: each network's median and worst case, and a comparison with the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from vfmalign.analysis.checks.records import CheckAnalysis
from vfmalign.core.domain.jobs import CaseScore, MetricSpec, Network

Scored = Network | Literal["naive"]


@dataclass(frozen=True)
class CaseSummary:
    """Scores of one network over the test cases, in the metric's unit.

    Attributes:
        median: median of the scores of all cases that have a score.
        worst: score of the worst case.
        worst_case: id of the worst case.
    """

    median: float
    worst: float
    worst_case: str


def summarise_cases(scores: Mapping[Scored, Sequence[CaseScore]], metric: MetricSpec) -> dict[Scored, CaseSummary]:
    """Returns a summary of the scores of each network.

    The result is empty if the metric, such as AUROC, is not defined for single cases.
    """
    if metric.of_set != "mean":
        return {}
    summaries: dict[Scored, CaseSummary] = {}
    for network, cases in scores.items():
        pairs = [(value, case.case) for case in cases if (value := case.values.get(metric.name)) is not None]
        if pairs:
            worst, case_id = min(pairs) if metric.higher_is_better else max(pairs)
            summaries[network] = CaseSummary(median(value for value, _ in pairs), worst, case_id)
    return summaries


def is_worse(metric: MetricSpec, score: float | None, baseline: float | None) -> bool:
    """Whether a score is worse than the score of the baseline. False if one of the two scores is absent."""
    if score is None or baseline is None:
        return False
    return score < baseline if metric.higher_is_better else score > baseline


def list_worse_than_naive(result: CheckAnalysis) -> list[MetricSpec]:
    """Returns the metrics for which the score of the fine-tuned model is worse than that of the naive baseline."""
    own, naive = result.network("pretrained").test_means, result.naive_baseline.test_means
    return [metric for metric in result.metrics if is_worse(metric, own.get(metric.name), naive.get(metric.name))]
