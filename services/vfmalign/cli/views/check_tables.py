"""Shows a check on a terminal like the first screen of its report: both verdicts, the main numbers and cautions."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vfmalign.analysis.checks.gate_intervals import count_seeds
from vfmalign.cli.views.tables import (
    DEGENERATE,
    SATURATED,
    format_smallest_difference,
    list_absent_reasons,
    list_fields,
    new_table,
    primary_shift,
    separate_tables,
    show_creation,
    styled_state,
    to_text,
)
from vfmalign.client.formatting import format_number, format_steps, name_difference
from vfmalign.client.messages.checks import Check, CheckResult, Gain, PlanResult
from vfmalign.core.domain.patients import MIN_SEEDS
from vfmalign.core.formats.documents import pluralise

_VERDICT_STYLES = {"gain": "bold green", "equivalent": "bold cyan", "harm": "bold red"}
_PLAN_STYLES = {"passed": "green", "warned": "bold yellow", "failed": "bold red"}


def show_check(check: Check, report: str) -> list[RenderableType]:
    """Returns the lines about a check: its state or both verdicts, the main numbers, the cautions and the report.

    Args:
        check: the check.
        report: path of the downloaded report page, or instructions to get the page.
    """
    head, created = show_head(check), show_creation(check.create_time, check.created_by)
    if (result := check.result) is None:
        return [head, created]
    reasons = (("Verdict", result.verdict_reason), ("Pretraining", result.pretraining_reason))
    return [
        *separate_tables(
            [
                head,
                *(Text(f"{name}: {reason}.") for name, reason in reasons if reason),
                *([] if result.plan is None else [_show_plan(result.plan)]),
                _show_gains(result),
                _show_shift(result),
            ]
        ),
        "",
        *_show_remarks(result),
        created,
        Text("The report and --json contain all numbers.", style="dim"),
        Text.assemble("Report: ", (report, "bold")),
    ]


def show_head(check: Check) -> RenderableType:
    """Returns both verdicts as a sentence and as labels. For a check without a result, returns its state."""
    if check.result is None:
        text = Text.assemble(f"Check {check.check_id}: ", styled_state(check.state))
        if check.failure is not None:
            text.append(f"\n{check.failure.reason}: {check.failure.message}")
        elif check.progress.detail:
            text.append(f"\n{check.progress.detail}")
        return text
    result = check.result
    seeds = count_seeds(result)
    few = f" ({pluralise(seeds, 'training')} of each network)" if seeds < MIN_SEEDS else ""
    pretraining = result.pretraining or "not assessed"
    return Text.assemble(
        (result.summary or result.verdict_reason, "bold"),
        f"\nCheck {check.check_id} ({check.spec.task}): verdict ",
        (result.verdict, _VERDICT_STYLES.get(result.verdict, "bold yellow")),
        ", pretraining ",
        (pretraining, _VERDICT_STYLES.get(pretraining, "bold yellow")),
        few,
    )


def _show_plan(plan: PlanResult) -> RenderableType:
    """Returns the outcome of a declared plan with its reasons."""
    reasons = [f"not passed: {', '.join(plan.failed)}"] if plan.failed else []
    if plan.earlier_checks:
        names = ", ".join(earlier.check_id for earlier in plan.earlier_checks[:3])
        reasons.append(f"declared after {pluralise(len(plan.earlier_checks), 'earlier check')}: {names}")
    explanation = f" ({'; '.join(reasons)})" if reasons else ""
    return Text.assemble("Plan: ", (plan.outcome, _PLAN_STYLES[plan.outcome]), explanation)


def _show_gains(result: CheckResult) -> Table:
    """Returns the differences to the other networks, with the scores they are computed from."""
    metric = result.metric
    better = "higher is better" if metric.higher_is_better else "lower is better"
    unit = f", {metric.unit}" if metric.unit else ""
    smallest = f", {format_smallest_difference(metric)}" if metric.smallest_difference else ""
    over_seeds = f", mean of {pluralise(len(result.seeds), 'seed')}" if result.seeds else ""
    difference = f"difference [{_format_level(result)}]"
    table = new_table(
        f"{metric.title} on {pluralise(result.test_groups, 'test patient')}{over_seeds} ({better}{unit}{smallest})",
        name_difference("…", higher_is_better=metric.higher_is_better),
        "model",
        "baseline",
        difference,
        numbers=["model", "baseline"],
    )
    for name, gain in _list_gains(result).items():
        score, baseline = format_number(gain.score, 4), format_number(gain.baseline, 4)
        table.add_row(name, score, baseline, to_text(gain.absolute, signed=True))
    return table


def _show_shift(result: CheckResult) -> Table:
    """Returns how far the features of the primary layer moved, and how fast the validation score converged."""
    convergence, mark = result.convergence, "§" if result.shifts[0].saturated else ""
    return list_fields(
        f"Shift of {result.primary_layer}, and convergence",
        {
            "MMD² between before and after": to_text(primary_shift(result)) + mark,
            "  as a share of that of random weights": to_text(result.shifts[0].shift_ratio),
            "steps to 95 % of the improvement": f"{format_steps(convergence.steps_to_95)} of {convergence.steps}",
        },
    )


def _show_remarks(result: CheckResult) -> list[RenderableType]:
    """Returns the reasons for missing numbers, the meaning of the marks, and the cautions."""
    gains = [gain.absolute for gain in _list_gains(result).values()]
    shift, ratio, steps = primary_shift(result), result.shifts[0].shift_ratio, result.convergence.steps_to_95
    # The ratio never has an interval, so only its value may be absent.
    lines = list_absent_reasons([*gains, shift, *([ratio] if ratio.value is None else [])])
    if steps.absent_reason:
        lines.append(Text(f"– steps to 95 %: {steps.absent_reason}", style="dim"))
    if any(estimate.degenerate for estimate in (*gains, shift)):
        lines.append(Text(DEGENERATE, style="dim"))
    if result.shifts[0].saturated:
        lines.append(Text(SATURATED, style="dim"))
    if result.naive_baseline_not_beaten:
        lines.append(Text("¶ the fine-tuned model does not beat the naive baseline.", style="yellow"))
    if result.interval_scope:
        lines.append(Text(f"interval of a gain: {result.interval_scope}.", style="dim"))
    return [*lines, *(Text(f"! {caution}", style="yellow") for caution in result.cautions)]


def _list_gains(result: CheckResult) -> dict[str, Gain]:
    """Returns the gains by the name of the other network or baseline."""
    naive = "the naive baseline" + (f" ({result.naive_baseline})" if result.naive_baseline else "")
    frozen = {} if result.gain_frozen_random is None else {"frozen random weights": result.gain_frozen_random}
    return {
        "the specialised network": result.rpg_specialised,
        "the same network without pretraining": result.rpg_scratch,
        **frozen,
        naive + ("¶" if result.naive_baseline_not_beaten else ""): result.gain_naive_baseline,
    }


def _format_level(result: CheckResult) -> str:
    """Formats the nominal coverage of the intervals, for the title of a column."""
    intervals = [gain.absolute.interval for gain in _list_gains(result).values()]
    levels = [interval.level for interval in intervals if interval is not None]
    return f"{100 * levels[0]:g} %" if levels else "interval"
