"""First screen of a check's report: answers, figures, scores worse than the naive baseline, and facts of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vfmalign.analysis.checks.records import CheckAnalysis, CheckReport
from vfmalign.analysis.checks.shift import is_saturated
from vfmalign.analysis.checks.summary import write_summary
from vfmalign.analysis.checks.verdict import FROZEN_RANDOM, SPECIALISED, explain_limits, format_score
from vfmalign.client.formatting import (
    format_duration,
    format_interval,
    format_number,
    format_value,
    join_notes,
    name_difference,
)
from vfmalign.client.messages.checks import CheckSpec, Gain, VerdictLabel
from vfmalign.client.messages.common import Estimate
from vfmalign.core.domain.jobs import CaseScore, MetricSpec
from vfmalign.core.domain.patients import MIN_FOR_CLAIM, MIN_SEEDS
from vfmalign.reports.checks.case_scores import Scored
from vfmalign.reports.checks.repeat_command import write_repeat_command
from vfmalign.reports.checks.score_table import ScoreRow, list_score_rows
from vfmalign.reports.drawing.charts import ForestRow, LayerCell, draw_forest, draw_layer_strip, draw_shift_scale

_GAIN: tuple[VerdictLabel, ...] = ("gain",)
_ACCEPTED: tuple[tuple[str, tuple[VerdictLabel, ...]], ...] = (
    ("shown to be better", _GAIN),
    ("better, or as good", ("gain", "equivalent")),
    ("no proven harm", ("gain", "equivalent", "inconclusive")),
)


@dataclass(frozen=True)
class GateRow:
    """One gate option of the command line, its purpose, and the outcome of the check if this option is used."""

    intention: str
    option: str
    outcome: str


@dataclass(frozen=True)
class FirstScreen:
    """Content of the first screen, as text and SVG.

    Attributes:
        summary: both answers in one sentence.
        few_trainings: whether there are too few trainings for an answer. A result of an older version may still contain
            an answer.
        limits: what the number of patients does not allow to conclude; empty if the summary says this.
        scores: scores of all networks, in the main metric and in each metric for which the model is worse than the
            naive baseline.
        worse: sentence that names the scores that are worse than those of the naive baseline.
        shift: sentence that states the shift with its interval and its ratio.
        scale: figure of the shift on its scale; None if the shift has no ratio.
        repeat: command that repeats the check; empty if no command can do this.
    """

    summary: str
    few_trainings: bool
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
        report: report of the check.
        metric: its primary metric.
        scores: test scores of each network with the first seed. The median and the worst case are computed from them.
        spec: the request of the check.
    """
    result = report.result
    rows = list_score_rows(result, metric, scores)
    shift, random = _get_shift(result)
    ratio = result.shift_ratio[result.shift.primary_layer].value
    text = _describe_shift(result, shift, ratio)
    return FirstScreen(
        summary=write_summary(result),
        few_trainings=result.trainings < MIN_SEEDS,
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


def _has_intervals(result: CheckAnalysis) -> bool:
    """Whether the summary contains an interval instead of the reason for its absence."""
    return not result.verdict.undecidable and result.rpg_specialised.absolute.interval is not None


def list_gates(result: CheckAnalysis, metric: MetricSpec) -> tuple[GateRow, ...]:
    """Evaluates the check with each gate that docs/gates.md describes."""
    few = result.trainings < MIN_SEEDS
    rows = []
    for intention, option, accepted, verdict in (
        ("pretraining helps", "--require-pretraining", _GAIN, result.pretraining),
        *((intention, "--require", accepted, result.verdict) for intention, accepted in _ACCEPTED),
    ):
        decided = verdict is not None and verdict.label in accepted and not few
        outcome = "passed" if decided else "undecidable" if few or verdict is None or verdict.undecidable else "failed"
        rows.append(GateRow(intention, f"{option} {','.join(accepted)}", outcome))
    if bound := metric.smallest_difference:
        gain = result.rpg_specialised
        interval = gain.absolute.interval
        untrained = result.verdict.label == "insufficient_training"
        if few or untrained or (gain.smaller_class or gain.groups) < MIN_FOR_CLAIM:
            interval = None
        outcome = "undecidable" if interval is None else "passed" if interval.lower >= -bound else "failed"
        rows.append(GateRow("at most δ worse", f"--gate 'difference_specialised.lower>=-{bound:g}'", outcome))
    return tuple(rows)


def _draw_gains(result: CheckAnalysis, metric: MetricSpec) -> Markup:
    naive = result.naive_baseline
    gains = [
        (SPECIALISED, result.rpg_specialised, False),
        ("itself without pretraining", result.rpg_scratch, False),  # its whole name leaves a narrow screen
        *([] if result.gain_frozen_random is None else [(FROZEN_RANDOM, result.gain_frozen_random, False)]),
        ("the naive baseline", naive.gain, naive.not_beaten),
    ]
    rows = [  # long texts are last in the second line, because a narrow screen cuts it off
        ForestRow(
            name_difference(name, higher_is_better=metric.higher_is_better),
            gain.absolute,
            _describe_difference(gain, metric, bad=bad),
            bad=bad,
        )
        for name, gain, bad in gains
    ]
    name, unit = metric.title, f" in {metric.unit}" if metric.unit else ""
    return draw_forest(
        rows,
        identifier="forest",
        title=f"Difference of the fine-tuned model's {name}{unit} to others, with intervals, about zero",
        ends=("worse", "better"),
        band=metric.smallest_difference,
        format_tick=lambda value: f"{value:+g}".replace("-", "\u2212") if value else "0",
    )


def _describe_difference(gain: Gain, metric: MetricSpec, *, bad: bool) -> str:
    value, interval = gain.absolute.value, gain.absolute.interval
    number = "absent"
    if value is not None:
        unit = f" {metric.unit}" if metric.unit else ""
        ends = "no interval" if interval is None else " to ".join(
            format_score(end, metric, "+") for end in (interval.lower, interval.upper)
        )  # fmt: skip
        number = f"{format_score(value, metric, '+')}{unit} ({ends})"
    # A narrow screen would cut off a long name; the unit then suffices.
    name = "" if metric.unit and len(metric.title) > 12 else f" in {metric.title}"
    return f"{'not beaten: ' if bad else ''}{number}{name}"


def _get_shift(result: CheckAnalysis) -> tuple[Estimate, float | None]:
    """The shift of the primary layer over all seeds, and the shift to random weights of the first seed."""
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
