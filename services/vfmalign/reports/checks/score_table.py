"""Table of the scores of all networks. The table marks scores that are worse than those of the naive baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vfmalign.analysis.checks.records import CheckAnalysis
from vfmalign.analysis.checks.verdict import format_score
from vfmalign.client.formatting import ABSENT
from vfmalign.core.domain.jobs import CaseScore, MetricSpec
from vfmalign.reports.checks.case_scores import Scored, is_worse, list_worse_than_naive, summarise_cases

COLUMNS: tuple[Scored, ...] = ("pretrained", "specialised", "scratch", "naive")


@dataclass(frozen=True)
class ScoreRow:
    """Scores of all networks in one metric.

    Attributes:
        name: name of the score.
        values: scores in the order of `COLUMNS`.
        worse: whether the score of the fine-tuned model is worse than that of the naive baseline.
    """

    name: str
    values: tuple[str, ...]
    worse: bool

    def compare_with_naive(self) -> str:
        """Returns a sentence with the scores of the fine-tuned model and of the naive baseline."""
        return f"{self.name} {self.values[0]} against {self.values[-1]}"


def list_score_rows(
    result: CheckAnalysis, metric: MetricSpec, scores: Mapping[Scored, Sequence[CaseScore]]
) -> tuple[ScoreRow, ...]:
    """Rows of the primary metric, and of all metrics in which the model is worse than the naive baseline.

    Args:
        result: analysis of the check.
        metric: its primary metric.
        scores: test scores of each network with the first seed. Without these scores, the rows have no median and no
            worst case.
    """
    of_seed = f", seed {result.seeds[0].seed}" if result.seeds else ""
    rows = [_make_mean_row_over_seeds(result, metric) if result.seeds else _make_mean_row(result, metric)]
    summaries = summarise_cases(scores, metric)
    if (own := summaries.get("pretrained")) is not None:
        worst_case = f"worst case (fine-tuned: {own.worst_case})"
        for name, field in (("median case", "median"), (worst_case, "worst")):
            rows.append(
                _make_row(name + of_seed, metric, {network: getattr(one, field) for network, one in summaries.items()})
            )
    rows += [_make_mean_row(result, one, of_seed) for one in list_worse_than_naive(result) if one != metric]
    return tuple(rows)


def _make_mean_row_over_seeds(result: CheckAnalysis, metric: MetricSpec) -> ScoreRow:
    """The primary metric, with the means over all trainings from which the differences are computed."""
    values: dict[Scored, float | None] = {
        "pretrained": result.rpg_specialised.score,
        "specialised": result.rpg_specialised.baseline,
        "scratch": result.rpg_scratch.baseline,
        "naive": result.naive_baseline.test_means.get(metric.name),
    }
    return _make_row(f"{_get_mean_title(metric)} over {len(result.seeds)} trainings", metric, values)


def _make_mean_row(result: CheckAnalysis, metric: MetricSpec, of_seed: str = "") -> ScoreRow:
    values: dict[Scored, float | None] = {one.network: one.test_means.get(metric.name) for one in result.networks}
    values["naive"] = result.naive_baseline.test_means.get(metric.name)
    return _make_row(_get_mean_title(metric) + of_seed, metric, values)


def _get_mean_title(metric: MetricSpec) -> str:
    unit = f" ({metric.unit})" if metric.unit else ""
    # The title of a mean over structures begins with "mean" already.
    is_named = metric.of_set != "mean" or metric.title.startswith("mean ")
    return ("" if is_named else "mean ") + metric.title + unit


def _make_row(name: str, metric: MetricSpec, values: Mapping[Scored, float | None]) -> ScoreRow:
    texts = (ABSENT if (value := values.get(column)) is None else format_score(value, metric) for column in COLUMNS)
    return ScoreRow(name, tuple(texts), is_worse(metric, values.get("pretrained"), values.get("naive")))
