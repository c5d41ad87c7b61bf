"""A check's result as tables: verdict, shift per layer, gains, convergence, stages, and where the report lies.

Knows the API's messages and rich. Computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vfmalign.cli.views.enum_labels import CHECK_STATES, ESTIMATORS, MEASURES, NETWORKS, VERDICTS, word
from vfmalign.cli.views.tables import ABSENT, estimate, fields, number, state, table
from vfmalign.core.domain.documents import pluralise
from vfmalign.v1 import alignment_pb2, common_pb2, finetuning_pb2, mmd_pb2

_STAGE_NUMBERS = ("attempts", "seconds", "of these at work")
_VERDICT_STYLES = {"gain": "bold green", "harm": "bold red"}


def summary(
    check: alignment_pb2.Check, report: Path | None = None, jobs: Sequence[finetuning_pb2.Job] = ()
) -> list[RenderableType]:
    """Everything a check concluded.

    Args:
        check: the check.
        report: where its page was written on this machine, if it was.
        jobs: its jobs, where known: they tell how much of a stage was waiting for a free place.
    """
    parts: list[RenderableType] = [_head(check)]
    if check.HasField("result"):
        result = check.result
        parts += [shifts(result), *_measures(result), gains(result), convergence(result), *_probes(result)]
    parts.append(stages(check.stages, jobs))
    if check.HasField("result"):
        parts += _remarks(check.result)
        parts.append(_places(check.result, report))
    return _spaced(parts)


def shifts(result: alignment_pb2.CheckResult) -> Table:
    """MMD² per layer, the primary layer first."""
    level = _level(result)
    found = table(
        "Shift: unbiased MMD² between features before and after fine-tuning, "
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
        main = mmd.standardised if mmd.HasField("standardised") else mmd.raw
        mark = " *" if mmd.layer == result.primary_layer else ""
        found.add_row(
            mmd.layer + mark,
            str(mmd.channels),
            _mmd2(mmd.standardised) if mmd.HasField("standardised") else ABSENT,
            _mmd2(mmd.raw),
            estimate(main.p_value),
            estimate(main.p_value_max_t),
            estimate(shift.shift_ratio),
            estimate(shift.paired_similarity) + ("§" if shift.saturated else ""),
        )
    return found


def _measures(result: alignment_pb2.CheckResult) -> list[RenderableType]:
    """The primary layer by other measures than MMD², with what their values mean or why they are absent."""
    if not result.measures:
        return []
    found = table(f"Beside MMD²: {result.primary_layer}", "measure", "value", "meaning", numbers=["value"])
    for one in result.measures:
        found.add_row(one.name, estimate(one.value), one.meaning if _has(one.value) else one.value.absent_reason)
    return [found]


def _probes(result: alignment_pb2.CheckResult) -> list[RenderableType]:
    """Early looks at the pretrained network's training."""
    if not result.probes:
        return []
    unit = f", {result.metric.unit}" if result.metric.unit else ""
    score = f"validation {result.metric.name}{unit}"
    title = f"Probes of the pretrained network: MMD² of {result.primary_layer} so far, and validation"
    found = table(title, "step", f"shift [{_level(result)}]", score, numbers=["step", score])
    for probe in result.probes:
        found.add_row(str(probe.step), estimate(probe.shift), number(probe.validation_score, 4))
    return [found]


def gains(result: alignment_pb2.CheckResult) -> Table:
    """The gains, with the scores behind them."""
    metric, level = result.metric, _level(result)
    better = "higher is better" if metric.higher_is_better else "lower is better"
    unit = f", {metric.unit}" if metric.unit else ""
    found = table(
        f"Gain in {metric.name} on test ({better}{unit})",
        "over",
        "model",
        "baseline",
        f"difference [{level}]",
        f"relative gain [{level}]",
        numbers=["model", "baseline"],
    )
    over = [
        ("specialised (rpg_specialised)", result.rpg_specialised),
        ("scratch (rpg_scratch)", result.rpg_scratch),
    ]
    if result.HasField("gain_naive_baseline"):
        over.append(("naive baseline" + ("¶" if result.naive_baseline_not_beaten else ""), result.gain_naive_baseline))
    for name, gain in over:
        found.add_row(
            name,
            number(gain.score, 4),
            number(gain.baseline, 4),
            estimate(gain.absolute, signed=True),
            estimate(gain.relative_percent, signed=True, unit=" %"),
        )
    return found


def convergence(result: alignment_pb2.CheckResult) -> Table:
    """How fast validation converged, and how far the weights went."""
    found = result.convergence
    to_baseline = f"more than {found.steps}" if found.censored else estimate(found.steps_to_baseline, digits=6)
    selected = {word(NETWORKS, curve.network): str(curve.selected_step) for curve in result.curves}
    return fields(
        f"Convergence of the pretrained network (of {found.steps} steps)",
        {
            "steps to 95 % of its own range": _with_reason(found.steps_to_95),
            "steps to the specialised network's best": to_baseline,
            "selected step": ", ".join(f"{name} {step}" for name, step in selected.items()) or ABSENT,
            "weight change ‖θ−θ0‖/‖θ0‖": number(result.weight_change),
        },
    )


def stages(found: Sequence[alignment_pb2.CheckStage], jobs: Sequence[finetuning_pb2.Job] = ()) -> Table:
    """The time of every stage; of a job's stage also without the wait for a free place."""
    ran = {
        f"job_{word(NETWORKS, job.spec.network)}": _seconds(job.end_time) - _seconds(job.start_time)
        for job in jobs
        if job.HasField("start_time") and job.HasField("end_time")
    }
    result = table("Stages", "stage", "attempts", "seconds", "of these at work", numbers=_STAGE_NUMBERS)
    for stage in found:
        seconds = f"{stage.seconds:.1f}" if stage.HasField("end_time") else ABSENT
        work = f"{ran[stage.name]:.1f}" if stage.name in ran else seconds
        result.add_row(stage.name, str(stage.attempts), seconds, work)
    return result


def comparison(response: mmd_pb2.ComputeResponse) -> list[RenderableType]:
    """The answer of MmdService.Compute; MMD² has no unit, σ is in units of the (scaled) features."""
    shown = [
        shift
        for layer in response.layers
        for shift in ((layer.standardised, layer.raw) if layer.HasField("standardised") else (layer.raw,))
    ]
    more = _columns(shown)
    found = table(
        f"MMD² ({word(ESTIMATORS, response.estimator)}; {response.rows_x} and {response.rows_y} rows, "
        f"{response.groups} groups; {response.precision} by {response.backend or 'torch'} on {response.cost.device})",
        "layer",
        "channels",
        "features",
        "MMD² [interval]",
        "σ",
        "p",
        "p max-T",
        *(title for title, _ in more),
        numbers=["channels", "σ", "p", "p max-T", *(title for title, _ in more)],
    )
    for layer in response.layers:
        scalings = [("standardised", layer.standardised)] if layer.HasField("standardised") else []
        for name, shift in (*scalings, ("raw", layer.raw)):
            found.add_row(
                layer.layer,
                str(layer.channels),
                name,
                _mmd2(shift),
                number(shift.sigma),
                estimate(shift.p_value),
                estimate(shift.p_value_max_t),
                *(text(shift) for _, text in more),
            )
    lines: list[RenderableType] = _beside(response)
    if any(shift.below_error_bound for shift in shown):
        lines.append(Text("‡ below the error bound of its precision: digits are lost.", style="dim"))
    if any(shift.mmd2.interval.degenerate for shift in shown):
        lines.append(Text("† degenerate: the test does not reject, coverage is not to be relied on.", style="dim"))
    if response.backend_note:
        lines.append(Text(response.backend_note, style="dim"))
    estimates = [e for shift in shown for e in (shift.mmd2, shift.p_value, shift.p_value_max_t)]
    if any(title == "p aggregated" for title, _ in more):
        estimates += [shift.aggregated_p_value for shift in shown]
    estimates += [one.value for layer in response.layers for one in layer.measures if not _has(one.value)]
    return _spaced([found, *lines, *_reasons(estimates)])


def _beside(response: mmd_pb2.ComputeResponse) -> list[RenderableType]:
    """Measures beside MMD², which were taken of the standardised features where there are any."""
    if not any(layer.measures for layer in response.layers):
        return []
    found = table("Beside MMD²", "layer", "measure", "features", "value", "dimension", numbers=["value", "dimension"])
    for layer in response.layers:
        features = "standardised" if layer.HasField("standardised") else "raw"
        for one in layer.measures:
            name = word(MEASURES, one.measure)
            found.add_row(layer.layer, name, features, estimate(one.value), str(one.dimension or ABSENT))
    return [found]


def _columns(shown: Sequence[mmd_pb2.ShiftResult]) -> list[tuple[str, Callable[[mmd_pb2.ShiftResult], str]]]:
    """Columns that only some questions need."""
    more: list[tuple[str, Callable[[mmd_pb2.ShiftResult], str]]] = []
    if any(_has(shift.aggregated_p_value) for shift in shown):
        more.append(("p aggregated", lambda shift: estimate(shift.aggregated_p_value)))
    if any(shift.approximation_error > 0.0 for shift in shown):
        more.append(("± approximation (99 %)", lambda shift: number(shift.approximation_error)))
    return more


def _head(check: alignment_pb2.Check) -> RenderableType:
    if not check.HasField("result"):
        text = Text.assemble(f"Check {check.check_id}: ", state(word(CHECK_STATES, check.state)))
        if check.HasField("failure"):
            text.append(f"\n{check.failure.reason}: {check.failure.message}")
        elif check.status:
            text.append(f"\n{check.status}")
        return text
    verdict = word(VERDICTS, check.result.verdict)
    return Text.assemble(
        f"Check {check.check_id} ({check.spec.task}): verdict ",
        (verdict, _VERDICT_STYLES.get(verdict, "bold yellow")),
        f"\n{check.result.verdict_reason}",
    )


def _remarks(result: alignment_pb2.CheckResult) -> list[RenderableType]:
    """What the marks mean, why numbers are absent, and what the reader must know."""
    lines: list[RenderableType] = [
        Text("* primary layer, declared in advance. p says only that a change is detectable.", style="dim")
    ]
    shown = [shift for s in result.shifts for shift in (s.mmd.raw, s.mmd.standardised)]
    intervals = [mmd2.interval for mmd2 in (*(s.mmd2 for s in shown), *(p.shift for p in result.probes))]
    if any(interval.degenerate for interval in intervals):
        lines.append(Text("† degenerate: the test does not reject, coverage is not to be relied on.", style="dim"))
    if any(shift.below_error_bound for shift in shown):
        lines.append(Text("‡ below the error bound of its precision: digits are lost.", style="dim"))
    if any(shift.saturated for shift in result.shifts):
        lines.append(Text("§ out of the kernel's reach: MMD² says that features moved far, not how far.", style="dim"))
    if result.naive_baseline:
        lines.append(Text(f"naive baseline: {result.naive_baseline}", style="dim"))
    if result.naive_baseline_not_beaten:
        lines.append(Text("¶ the fine-tuned model does not beat it.", style="yellow"))
    estimates = [e for shift in shown for e in (shift.mmd2, shift.p_value, shift.p_value_max_t)]
    for gain in (result.rpg_specialised, result.rpg_scratch):
        estimates += [gain.relative_percent, gain.absolute]
    estimates += [probe.shift for probe in result.probes]
    plain = [message for shift in result.shifts for message in (shift.shift_ratio, shift.paired_similarity)]
    lines += _reasons([*estimates, *(message for message in plain if not _has(message))])
    return lines + [Text(f"! {caution}", style="yellow") for caution in result.cautions]


def _reasons(estimates: Iterable[common_pb2.Estimate]) -> list[RenderableType]:
    """Each reason for an absent number once."""
    found: dict[str, None] = {}
    for message in estimates:
        if message.absent_reason and not (_has(message) and message.HasField("interval")):
            found[message.absent_reason] = None
    return [Text(f"{ABSENT} {reason}", style="dim") for reason in found]


def _places(result: alignment_pb2.CheckResult, report: Path | None) -> RenderableType:
    text = Text.assemble("Report: ", (result.report_html.uri, "bold"))
    if report is not None:
        text.append(f"\n        {report}", style="bold")
    return text


def _mmd2(shift: mmd_pb2.ShiftResult) -> str:
    return estimate(shift.mmd2) + ("‡" if shift.below_error_bound else "")


def _with_reason(message: common_pb2.Estimate) -> str:
    return estimate(message, digits=6) if _has(message) else f"{ABSENT} ({message.absent_reason})"


def _has(message: common_pb2.Estimate) -> bool:
    return bool(message.HasField("value"))


def _seconds(stamp: Timestamp) -> float:
    """Seconds since 1970."""
    return float(stamp.seconds) + stamp.nanos / 1e9


def _level(result: alignment_pb2.CheckResult) -> str:
    """The nominal coverage of the intervals, as a column's title says it."""
    candidates = [result.rpg_specialised.relative_percent, *(shift.mmd.raw.mmd2 for shift in result.shifts)]
    levels = [message.interval.level for message in candidates if message.HasField("interval")]
    return f"{100 * levels[0]:g} %" if levels else "interval"


def _spaced(parts: Sequence[RenderableType]) -> list[RenderableType]:
    """A blank line before every table."""
    result: list[RenderableType] = []
    for part in parts:
        if isinstance(part, Table) and result:
            result.append("")
        result.append(part)
    return result
