"""A check as tables: verdict, shift per layer, gains, convergence, stages, and the location of the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vfmalign.cli.views.gate_tables import count_seeds
from vfmalign.cli.views.seed_tables import explain_seeds, show_seeds
from vfmalign.cli.views.tables import (
    BELOW_ERROR_BOUND,
    DEGENERATE,
    SATURATED,
    format_mmd2,
    format_smallest_difference,
    list_absent_reasons,
    list_fields,
    list_top_channels_estimates,
    name_training,
    new_table,
    separate_tables,
    show_report,
    show_top_channels,
    styled_state,
    to_text,
)
from vfmalign.client.formatting import ABSENT, format_number, format_steps
from vfmalign.client.messages.checks import Check, CheckResult
from vfmalign.client.messages.common import Estimate
from vfmalign.client.messages.jobs import Job
from vfmalign.client.messages.mmd import ShiftResult
from vfmalign.core.domain.patients import MIN_SEEDS
from vfmalign.core.formats.documents import pluralise

_STAGE_NUMBERS = ("attempts", "seconds", "without waiting")
_VERDICT_STYLES = {"gain": "bold green", "equivalent": "bold cyan", "harm": "bold red"}


def show_check(check: Check, report: Path | None = None, jobs: Sequence[Job] = ()) -> list[RenderableType]:
    """Returns everything about a check.

    Args:
        check: the check.
        report: the downloaded report page, if there is one.
        jobs: the check's jobs, if known; they tell how long a stage waited for a free slot.
    """
    parts: list[RenderableType] = [show_head(check)]
    if (result := check.result) is not None:
        parts += [show_shifts(result), *show_top_channels([shift.mmd for shift in result.shifts])]
        parts += [*_show_measures(result), show_gains(result), show_convergence(result)]
        parts += [*show_seeds(result), *_show_probes(result)]
    parts.append(show_stages(check, jobs))
    if result is not None:
        reasons = (("Verdict", result.verdict_reason), ("Pretraining", result.pretraining_reason))
        parts += [Text(f"{name}: {reason}.") for name, reason in reasons if reason]
        parts += _show_remarks(result)
        parts.append(show_report(result.report_html, report))
    return separate_tables(parts)


def show_shifts(result: CheckResult) -> Table:
    """Returns MMD² per layer, the primary layer first."""
    level = _format_level(result)
    of_seed = f", seed {result.seeds[0].seed}" if result.seeds else ""
    table = new_table(
        f"Shift{of_seed}: unbiased MMD² between features before and after fine-tuning, "
        + pluralise(result.test_groups, "test patient"),
        "layer",
        "channels",
        f"standardised [{level}]",
        f"raw [{level}]",
        "p",
        "p max-T",
        "shift ratio",
        "paired_similarity",
        numbers=["channels", "p", "p max-T", "shift ratio", "paired_similarity"],
    )
    for shift in result.shifts:
        mmd = shift.mmd
        main = mmd.standardised or mmd.raw
        mark = " *" if mmd.layer == result.primary_layer else ""
        table.add_row(
            mmd.layer + mark,
            str(mmd.channels),
            ABSENT if mmd.standardised is None else format_mmd2(mmd.standardised),
            format_mmd2(mmd.raw),
            to_text(main.p_value),
            to_text(main.p_value_max_t),
            to_text(shift.shift_ratio),
            to_text(shift.paired_similarity) + ("§" if shift.saturated else ""),
        )
    return table


def show_gains(result: CheckResult) -> Table:
    """Returns the gains with the scores they are computed from."""
    metric, level = result.metric, _format_level(result)
    better = "higher is better" if metric.higher_is_better else "lower is better"
    unit = f", {metric.unit}" if metric.unit else ""
    smallest = f", {format_smallest_difference(metric)}" if metric.smallest_difference else ""
    over_seeds = f", mean of {pluralise(len(result.seeds), 'seed')}" if result.seeds else ""
    table = new_table(
        f"Gain in {metric.title} on test{over_seeds} ({better}{unit}{smallest})",
        "your model minus",
        "model",
        "baseline",
        f"difference [{level}]",
        f"relative gain [{level}]",
        numbers=["model", "baseline"],
    )
    gains = [
        ("the specialised network", result.rpg_specialised),
        ("the same network without pretraining", result.rpg_scratch),
        ("the naive baseline" + ("¶" if result.naive_baseline_not_beaten else ""), result.gain_naive_baseline),
    ]
    for name, gain in gains:
        table.add_row(
            name,
            format_number(gain.score, 4),
            format_number(gain.baseline, 4),
            to_text(gain.absolute, signed=True),
            to_text(gain.relative_percent, signed=True, unit=" %"),
        )
    return table


def show_convergence(result: CheckResult) -> Table:
    """Returns how fast the validation score converged, and how far the weights moved."""
    convergence = result.convergence
    steps = convergence.steps_to_95
    selected = [f"{curve.network} {curve.selected_step}" for curve in result.curves]
    of_seed = f", seed {result.seeds[0].seed}" if result.seeds else ""
    return list_fields(
        f"Convergence of the pretrained network{of_seed} (of {convergence.steps} steps)",
        {
            "steps to 95 % of its own rise": f"{format_steps(steps)} ({steps.absent_reason})"
            if steps.absent_reason
            else format_steps(steps),
            "steps to the specialised network's best": format_steps(convergence.steps_to_baseline),
            "selected step": ", ".join(selected) or ABSENT,
            "weight change ‖θ−θ0‖/‖θ0‖": format_number(result.weight_change),
        },
    )


def show_stages(check: Check, jobs: Sequence[Job] = ()) -> Table:
    """Returns the duration of every stage; for a job's stage also without its wait for a free slot."""
    training_s = {
        f"job_{name_training(job)}".replace("-", "_"): (job.end_time - job.start_time).total_seconds()
        for job in jobs
        if job.start_time is not None and job.end_time is not None
    }
    table = new_table("Stages", "stage", "attempts", "seconds", "without waiting", numbers=_STAGE_NUMBERS)
    for stage in check.stages:
        seconds = ABSENT if stage.end_time is None else f"{stage.seconds:.1f}"
        working = f"{training_s[stage.name]:.1f}" if stage.name in training_s else seconds
        table.add_row(stage.name, str(stage.attempts), seconds, working)
    return table


def show_head(check: Check) -> RenderableType:
    """Returns both answers in a sentence and as labels, or the state of a check without a result."""
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


def _show_measures(result: CheckResult) -> list[RenderableType]:
    """Returns the further measures of the primary layer, each with its meaning or why it is absent."""
    if not result.measures:
        return []
    table = new_table(f"Beside MMD²: {result.primary_layer}", "measure", "value", "meaning", numbers=["value"])
    for measure in result.measures:
        meaning = measure.value.absent_reason if measure.value.value is None else measure.meaning
        table.add_row(measure.name, to_text(measure.value), meaning)
    return [table]


def _show_probes(result: CheckResult) -> list[RenderableType]:
    """Returns the probes of the pretrained network's training."""
    if not result.probes:
        return []
    unit = f", {result.metric.unit}" if result.metric.unit else ""
    score = f"validation {result.metric.title}{unit}"
    title = f"Probes of the pretrained network: MMD² of {result.primary_layer} so far, and validation"
    table = new_table(title, "step", f"shift [{_format_level(result)}]", score, numbers=["step", score])
    for probe in result.probes:
        table.add_row(str(probe.step), to_text(probe.shift), format_number(probe.validation_score, 4))
    return [table]


def _show_remarks(result: CheckResult) -> list[RenderableType]:
    """Returns the meaning of the marks, the reasons for missing numbers, and the cautions."""
    lines: list[RenderableType] = [
        Text("* primary layer, declared in advance. p says only that a change is detectable.", style="dim")
    ]
    shifts = [s for layer in result.shifts for s in (layer.mmd.raw, layer.mmd.standardised) if s is not None]
    if any(estimate.degenerate for estimate in (*(s.mmd2 for s in shifts), *(p.shift for p in result.probes))):
        lines.append(Text(DEGENERATE, style="dim"))
    if any(shift.below_error_bound for shift in shifts):
        lines.append(Text(BELOW_ERROR_BOUND, style="dim"))
    if any(shift.saturated for shift in result.shifts):
        lines.append(Text(SATURATED, style="dim"))
    lines.append(Text(f"naive baseline: {result.naive_baseline}", style="dim"))
    if result.naive_baseline_not_beaten:
        lines.append(Text("¶ the fine-tuned model does not beat the naive baseline.", style="yellow"))
    if result.interval_scope:
        lines.append(Text(f"interval of a gain: {result.interval_scope}.", style="dim"))
    lines += [*explain_seeds(result), *list_absent_reasons(_list_estimates(result, shifts))]
    return lines + [Text(f"! {caution}", style="yellow") for caution in result.cautions]


def _list_estimates(result: CheckResult, shifts: Sequence[ShiftResult]) -> list[Estimate]:
    """Returns the estimates whose missing values or intervals need a reason."""
    estimates = [estimate for s in shifts for estimate in (s.mmd2, s.p_value, s.p_value_max_t)]
    for gain in (result.rpg_specialised, result.rpg_scratch):
        estimates += [gain.relative_percent, gain.absolute]
    estimates += [probe.shift for probe in result.probes]
    estimates += list_top_channels_estimates([shift.mmd for shift in result.shifts])
    # No interval is ever formed for these two: only a missing value needs a reason.
    for shift in result.shifts:
        estimates += [e for e in (shift.shift_ratio, shift.paired_similarity) if e.value is None]
    return estimates


def _format_level(result: CheckResult) -> str:
    """Formats the nominal coverage of the intervals, for the titles of columns."""
    candidates = [result.rpg_specialised.relative_percent, *(shift.mmd.raw.mmd2 for shift in result.shifts)]
    levels = [estimate.interval.level for estimate in candidates if estimate.interval is not None]
    return f"{100 * levels[0]:g} %" if levels else "interval"
