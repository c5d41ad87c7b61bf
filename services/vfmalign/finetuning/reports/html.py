"""HTML report of a check: a single self-contained file without scripts or links, with embedded images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vfmalign.client.messages.checks import Gain
from vfmalign.client.messages.common import Estimate
from vfmalign.core.domain.documents import pluralise
from vfmalign.core.domain.jobs import Network
from vfmalign.finetuning.analysis.cautions import list_cautions
from vfmalign.finetuning.analysis.records import MEASURE_MEANINGS, CheckAnalysis, CheckReport
from vfmalign.finetuning.analysis.shift import SATURATION_THRESHOLD, is_saturated
from vfmalign.finetuning.reports import plots
from vfmalign.finetuning.reports.formatting import (
    ABSENT,
    format_interval,
    format_number,
    format_value,
    to_data_url,
    to_text,
)
from vfmalign.finetuning.reports.seed_rows import list_component_rows, list_seed_notes, list_seed_rows
from vfmalign.finetuning.reports.templating import load_template

_VERDICT_COLOURS = {
    "gain": "#009E73",
    "harm": "#D55E00",
    "equivalent": "#0072B2",
    "inconclusive": "#888888",
    "insufficient_data": "#b58900",
}


@dataclass(frozen=True)
class ExampleSlice:
    """An image with a network's prediction on one slice, as PNG, with its caption."""

    network: Network
    png: bytes
    caption: str


@dataclass(frozen=True)
class NumberRow:
    """One formatted row of a table of numbers."""

    name: str
    value: str
    interval: str
    note: str


def render(report: CheckReport, examples: Sequence[ExampleSlice]) -> bytes:
    """Renders the report as UTF-8 HTML.

    Args:
        report: the record that is stored as `report.json`.
        examples: example slices with predictions.
    """
    result = report.result
    metric = next(metric for metric in result.metrics if metric.name == result.primary_metric)
    further = [network for seed in result.seeds[1:] for network in seed.networks]
    images = {
        "shift": to_data_url("image/svg+xml", plots.draw_shift(result.shift)),
        "curves": to_data_url("image/svg+xml", plots.draw_curves(result.networks, metric, further)),
    }
    if result.shift.projection is not None and result.shift.projection.x:
        images["projection"] = to_data_url("image/svg+xml", plots.draw_projection(result.shift.projection))
    if result.probes:
        images["probes"] = to_data_url("image/svg+xml", plots.draw_probes(result.probes, metric))
    html = load_template("report.html.j2", {"is_saturated": is_saturated}).render(
        report=report,
        r=result,
        run=report.run,
        labels=plots.NETWORK_LABELS,
        metric=metric,
        numbers=number_rows(result),
        measures=measure_rows(result),
        seeds=list_seed_rows(result),
        components=list_component_rows(result),
        seed_notes=list_seed_notes(result),
        reused=_list_reused(report),
        cautions=list_cautions(result),
        notes=_notes(result),
        shift_notes=_shift_notes(result),
        top_channels=[layer for layer in result.shift.layers if layer.top_channels and layer.top_channels.count],
        probe_notes=[
            reason for reason in dict.fromkeys(probe.shift.absent_reason for probe in result.probes) if reason
        ],
        level=_interval_level(result),
        saturation_threshold=SATURATION_THRESHOLD,
        images=images,
        examples=_group_examples(examples),
        verdict_colour=_VERDICT_COLOURS[result.verdict.label],
    )
    return html.encode()


def number_rows(result: CheckAnalysis) -> list[NumberRow]:
    """Rows of the main table: shift and gains, with how to read them."""
    primary = result.shift.get_layer(result.shift.primary_layer)
    shift, of_seed = (primary.standardised or primary.raw).mmd2, ""
    if result.seed_variation is not None:
        summary = result.seed_variation.layers[0]
        shift, of_seed = (summary.standardised or summary.raw).mean, f", seed {result.seeds[0].seed}"
    metric = next(metric for metric in result.metrics if metric.name == result.primary_metric)
    rows = [
        _row(f"shift, MMD² of {primary.layer}", shift, "how far the features of the same cases moved"),
        _row(
            f"shift ratio{of_seed}",
            result.shift_ratio[primary.layer],
            "in units of the shift to random weights; comparable between models",
        ),
    ]
    gains: tuple[tuple[str, Gain], ...] = (
        ("specialised network", result.rpg_specialised),
        ("random weights", result.rpg_scratch),
    )
    difference_unit = f" {metric.unit}" if metric.unit else ""
    difference_note = "above zero is better"
    if metric.smallest_difference:
        difference_note += f"; smallest relevant difference {metric.smallest_difference:g}{difference_unit}"
    for name, gain in gains:
        rows.append(_row(f"relative gain over {name}", gain.relative_percent, _gain_note(gain), unit=" %"))
        rows.append(_row(f"difference to {name}", gain.absolute, difference_note, unit=difference_unit))
    if result.naive_baseline is not None:
        symbol = " ‡" if result.naive_baseline.not_beaten else ""
        note = f"{result.naive_baseline.prediction}: {_gain_note(result.naive_baseline.gain)}"
        difference = result.naive_baseline.gain.absolute
        rows.append(_row(f"difference to naive baseline{symbol}", difference, note, unit=difference_unit))
    return rows


def measure_rows(result: CheckAnalysis) -> list[NumberRow]:
    """Rows of the table of measures beside MMD², with the meaning of each value or the reason why it is absent."""
    rows = []
    for name, meaning in MEASURE_MEANINGS.items():
        if (measure := result.measures.get(name)) is not None:
            note = meaning if measure.value is not None else measure.absent_reason
            rows.append(NumberRow(name=name, value=format_value(measure), interval="", note=note))
    return rows


def _row(name: str, estimate: Estimate, note: str, unit: str = "") -> NumberRow:
    value = format_value(estimate)
    return NumberRow(
        name=name,
        value=f"{value}{unit}" if value != ABSENT else value,
        interval=format_interval(estimate),
        note=estimate.absent_reason or note,
    )


def _gain_note(gain: Gain) -> str:
    if gain.score is None or gain.baseline is None:
        return ""
    left_out = f", {gain.cases_left_out} left out" if gain.cases_left_out else ""
    sample = f"{pluralise(gain.cases, 'case')} of {pluralise(gain.groups, 'patient')}"
    return f"{format_number(gain.score)} against {format_number(gain.baseline)}, {sample}{left_out}"


def _notes(result: CheckAnalysis) -> list[str]:
    notes = [
        f"{to_text(metric.name)} with an empty mask: {metric.empty_mask}"
        for metric in result.metrics
        if metric.empty_mask
    ]
    reasons = [
        f"steps to 95 % of the {plots.NETWORK_LABELS[network.network]}: {network.convergence.steps_to_95.absent_reason}"
        for network in result.networks
        if network.convergence.steps_to_95.absent_reason
    ]
    if result.naive_baseline is not None and result.naive_baseline.not_beaten:
        notes.append("‡ the fine-tuned model does not beat the naive baseline, a prediction without a network")
    return notes + reasons


def _shift_notes(result: CheckAnalysis) -> list[str]:
    """Reasons why numbers of the shift are absent, without duplicates."""
    reasons = []
    for layer in result.shift.layers:
        shifts = [layer.raw] if layer.standardised is None else [layer.standardised, layer.raw]
        for shift in shifts:
            reasons += [e.absent_reason for e in (shift.mmd2, shift.p_value, shift.p_value_max_t)]
        if layer.top_channels is not None and layer.top_channels.count:
            without = layer.top_channels.shift_without.mmd2
            reasons += [without.absent_reason] if without.value is None else []
    return [reason for reason in dict.fromkeys(reasons) if reason]


def _interval_level(result: CheckAnalysis) -> str:
    interval = result.rpg_specialised.absolute.interval
    return f"{100 * (interval.level if interval else 0.95):.0f} %"


def _list_reused(report: CheckReport) -> list[tuple[str, str]]:
    """Networks that another check's job has trained: what they are, and the job."""
    result = report.result
    seeds = [(f", seed {seed.seed}", seed.networks) for seed in result.seeds] or [("", result.networks)]
    reused = []
    for number, (of_seed, networks) in enumerate(seeds, start=1):
        for network in networks:
            key = network.network if number == 1 else f"{network.network}_s{number}"
            if (job := report.run.trained_by.get(key, network.job)) != network.job:
                reused.append((plots.NETWORK_LABELS[network.network] + of_seed, job))
    return reused


def _group_examples(examples: Sequence[ExampleSlice]) -> list[Mapping[str, object]]:
    groups: list[Mapping[str, object]] = []
    for network in plots.NETWORK_LABELS:
        figures = [
            {"data": to_data_url("image/png", example.png), "caption": example.caption}
            for example in examples
            if example.network == network
        ]
        if figures:
            groups.append({"network": network, "figures": figures})
    return groups
