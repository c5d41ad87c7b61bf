"""The first screen of a check's report: the verdict, its figures, what is worse than no network, facts of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vfmalign.analysis.checks.records import CheckAnalysis, CheckReport
from vfmalign.analysis.checks.shift import is_saturated
from vfmalign.analysis.checks.verdict import explain_limits, format_score
from vfmalign.client.formatting import (
    format_duration,
    format_interval,
    format_number,
    format_value,
    join_notes,
)
from vfmalign.client.messages.checks import CheckSpec, Gain, VerdictLabel
from vfmalign.client.messages.common import Estimate
from vfmalign.core.domain.jobs import CaseScore, MetricSpec
from vfmalign.reports.checks.case_scores import Scored
from vfmalign.reports.checks.repeat_command import write_repeat_command
from vfmalign.reports.checks.score_table import ScoreRow, list_score_rows
from vfmalign.reports.drawing.charts import ForestRow, LayerCell, draw_forest, draw_layer_strip, draw_shift_scale

_VERDICT_PHRASES: Mapping[VerdictLabel, str] = {
    "gain": "Gain",
    "harm": "Worse than the specialised network",
    "equivalent": "No relevant difference",
    "inconclusive": "No clear gain",
    "insufficient_data": "Too little data for a verdict",
    "insufficient_training": "Too little training for a verdict",
}
_ACCEPTED: tuple[tuple[str, tuple[VerdictLabel, ...]], ...] = (
    ("shown to be better", ("gain",)),
    ("better, or as good", ("gain", "equivalent")),
    ("no proven harm", ("gain", "equivalent", "inconclusive")),
)


@dataclass(frozen=True)
class GateRow:
    """What a gate with this option would do with the check."""

    intention: str
    option: str
    outcome: str


@dataclass(frozen=True)
class FirstScreen:
    """What the first screen shows, as text and SVG.

    Attributes:
        verdict: in one sentence.
        limits: what the number of patients cannot show; empty where the verdict's sentence says it.
        scores: main metric of every network, and every metric that is worse than the naive baseline.
        worse: scores that are worse than those of the naive baseline.
        shift: the shift with its interval and its ratio, in words.
        scale: None where the shift has no ratio.
        repeat: command that repeats the check; empty if there is none.
    """

    verdict: str
    limits: str
    forest: Markup
    scores: tuple[ScoreRow, ...]
    worse: tuple[str, ...]
    shift: str
    scale: Markup | None
    strip: Markup
    gates: tuple[GateRow, ...]
    duration: str
    repeat: str


def make_first_screen(
    report: CheckReport, metric: MetricSpec, scores: Mapping[Scored, Sequence[CaseScore]], spec: CheckSpec | None
) -> FirstScreen:
    """Builds the first screen.

    Args:
        report: of the check.
        metric: its primary metric.
        scores: test scores of every network, of the first seed.
        spec: the request of the check.
    """
    result = report.result
    rows = list_score_rows(result, metric, scores)
    shift, random = _get_shift(result)
    ratio = result.shift_ratio[result.shift.primary_layer].value
    text = _describe_shift(result, shift, ratio)
    return FirstScreen(
        verdict=write_verdict(result, metric),
        limits=explain_limits(result.rpg_specialised, metric) if _has_intervals(result) else "",
        forest=_draw_gains(result, metric),
        scores=rows,
        worse=tuple(row.compare_with_naive() for row in rows if row.worse),
        shift=text,
        scale=None if ratio is None or shift.value is None else draw_shift_scale(shift, random, text),
        strip=draw_layer_strip(
            [
                LayerCell(
                    name=layer.layer,
                    ratio=result.shift_ratio[layer.layer].value,
                    primary=layer.layer == result.shift.primary_layer,
                    saturated=is_saturated(result.paired_similarity[layer.layer]),
                )
                for layer in result.shift.layers
            ]
        ),
        gates=list_gates(result, metric),
        duration=format_duration((report.run.finished_at - report.run.created_at).total_seconds()),
        repeat="" if spec is None else write_repeat_command(spec),
    )


def write_verdict(result: CheckAnalysis, metric: MetricSpec) -> str:
    """The verdict in one sentence, with both scores and the interval of their difference."""
    label, gain = result.verdict.label, result.rpg_specialised
    interval = gain.absolute.interval
    if not _has_intervals(result) or interval is None or gain.score is None or gain.baseline is None:
        return f"{_VERDICT_PHRASES[label]}: {result.verdict.reason}."
    score, baseline = (format_score(value, metric) for value in (gain.score, gain.baseline))
    lower, upper = (format_score(value, metric, "+") for value in (interval.lower, interval.upper))
    unit = f" {metric.unit}" if metric.unit else ""
    return (
        f"{_VERDICT_PHRASES[label]}: {metric.title} {score}{unit} against {baseline}{unit}, "
        f"difference {lower} to {upper}{unit}."
    )


def _has_intervals(result: CheckAnalysis) -> bool:
    """Whether the verdict's sentence shows an interval, and not the reason in its place."""
    return not result.verdict.undecidable and result.rpg_specialised.absolute.interval is not None


def list_gates(result: CheckAnalysis, metric: MetricSpec) -> tuple[GateRow, ...]:
    """What the gates of docs/gates.md would do with the check."""
    label, undecidable = result.verdict.label, result.verdict.undecidable
    rows = []
    for intention, accepted in _ACCEPTED:
        outcome = "passed" if label in accepted else "undecidable" if undecidable else "failed"
        rows.append(GateRow(intention, f"--require {','.join(accepted)}", outcome))
    if bound := metric.smallest_difference:
        interval = result.rpg_specialised.absolute.interval
        if label == "insufficient_training":
            interval = None
        outcome = "undecidable" if interval is None else "passed" if interval.lower >= -bound else "failed"
        rows.append(GateRow("at most δ worse", f"--gate 'difference_specialised.lower>=-{bound:g}'", outcome))
    return tuple(rows)


def _draw_gains(result: CheckAnalysis, metric: MetricSpec) -> Markup:
    gains = [("specialised network", result.rpg_specialised), ("random weights", result.rpg_scratch)]
    rows = [ForestRow(name, gain.absolute, _describe_difference(gain, metric)) for name, gain in gains]
    naive = result.naive_baseline
    text, label = _describe_difference(naive.gain, metric), "naive baseline"
    rows.append(ForestRow(f"{label}, not beaten" if naive.not_beaten else label, naive.gain.absolute, text,
                          bad=naive.not_beaten))  # fmt: skip
    name, unit = metric.title, f" in {metric.unit}" if metric.unit else ""
    return draw_forest(
        rows,
        identifier="forest",
        title=f"Difference of the fine-tuned model's {name}{unit} to others, with intervals, about zero",
        ends=("worse", "better"),
        band=metric.smallest_difference,
        format_tick=lambda value: f"{value:+g}".replace("-", "\u2212") if value else "0",
    )


def _describe_difference(gain: Gain, metric: MetricSpec) -> str:
    value, interval = gain.absolute.value, gain.absolute.interval
    if value is None:
        return "absent"
    ends = "no interval" if interval is None else " to ".join(
        format_score(end, metric, "+") for end in (interval.lower, interval.upper)
    )  # fmt: skip
    return f"{format_score(value, metric, '+')} ({ends})"


def _get_shift(result: CheckAnalysis) -> tuple[Estimate, float | None]:
    """The shift of the primary layer, of all seeds, and that to random weights, of the first seed."""
    primary = result.shift.get_layer(result.shift.primary_layer)
    shift = (primary.standardised or primary.raw).mmd2
    ratio = result.shift_ratio[primary.layer].value
    random = shift.value / ratio if shift.value is not None and ratio else None
    if result.seed_variation is not None:
        summary = result.seed_variation.layers[0]
        shift = (summary.standardised or summary.raw).mean
    return shift, random


def _describe_shift(result: CheckAnalysis, shift: Estimate, ratio: float | None) -> str:
    of_seed = f" (seed {result.seeds[0].seed})" if result.seeds else ""
    share = f"{format_number(ratio)} of the shift to random weights{of_seed}"
    if ratio is None:
        share = result.shift_ratio[result.shift.primary_layer].absent_reason
    interval = "" if shift.interval is None else f" ({format_interval(shift)})"
    return join_notes(f"MMD² {format_value(shift)}{interval}", share)
