"""Rows and notes of the tables of a check's report."""

from __future__ import annotations

from dataclasses import dataclass

from vfmalign.analysis.checks.records import MEASURE_MEANINGS, MEASURE_TITLES, CheckAnalysis
from vfmalign.analysis.checks.verdict import FROZEN_RANDOM, SCRATCH, SPECIALISED
from vfmalign.client.formatting import (
    ABSENT,
    format_interval,
    format_number,
    format_value,
    join_notes,
    name_difference,
)
from vfmalign.client.messages.checks import Gain
from vfmalign.client.messages.common import Estimate
from vfmalign.core.formats.documents import pluralise
from vfmalign.reports.checks.plots import NETWORK_LABELS

MEASURE_SCALES = {
    "cka": "0 unrelated, 1 unchanged",
    "h_score": "0 classes not separated, 1 fully separated",
}
"""Measures that have a scale within one check. Others are only comparable between checks, so only the JSON has them."""


@dataclass(frozen=True)
class NumberRow:
    """One formatted row of a table of numbers.

    If the row shows a measure, `interval` contains the scale of the measure.
    """

    name: str
    value: str
    interval: str
    note: str


def list_numbers(result: CheckAnalysis) -> list[NumberRow]:
    """Lists the rows of the main table, which show shift and gains. Notes explain how to read these rows."""
    primary = result.shift.get_layer(result.shift.primary_layer)
    shift, of_seed = (primary.standardised or primary.raw).mmd2, ""
    if result.seed_variation is not None:
        summary = result.seed_variation.layers[0]
        shift, of_seed = (summary.standardised or summary.raw).mean, f", seed {result.seeds[0].seed}"
    metric = result.metric
    rows = [
        _row(f"shift, MMD² of {primary.layer}", shift, "how far the features of the same cases moved"),
        _row(
            f"shift ratio{of_seed}",
            result.shift_ratio[primary.layer],
            "in units of the shift to random weights; comparable between models",
        ),
    ]
    gains = [(SPECIALISED, result.rpg_specialised), (SCRATCH, result.rpg_scratch)]
    if result.gain_frozen_random is not None:
        gains.append((FROZEN_RANDOM, result.gain_frozen_random))
    difference_unit = f" {metric.unit}" if metric.unit else ""
    difference_note = "above zero is better"
    if metric.smallest_difference:
        difference_note += f"; smallest relevant difference {metric.smallest_difference:g}{difference_unit}"
    for name, gain in gains:
        rows.append(_row(f"relative gain over {name}", gain.relative_percent, _gain_note(gain), unit=" %"))
        label = name_difference(name, higher_is_better=metric.higher_is_better)
        rows.append(_row(label, gain.absolute, difference_note, unit=difference_unit))
    naive = result.naive_baseline
    note = f"{naive.prediction}: {_gain_note(naive.gain)}"
    label = name_difference("naive baseline", higher_is_better=metric.higher_is_better)
    rows.append(_row(f"{label}{' ‡' if naive.not_beaten else ''}", naive.gain.absolute, note, unit=difference_unit))
    return rows


def list_measures(result: CheckAnalysis) -> tuple[list[NumberRow], list[str]]:
    """Returns the rows of the measures (except MMD²) with a scale within one check, and the other measures' names."""
    rows, others = [], []
    for name, meaning in MEASURE_MEANINGS.items():
        if (measure := result.measures.get(name)) is None:
            continue
        if name not in MEASURE_SCALES:
            others.append(MEASURE_TITLES[name])
            continue
        note = join_notes(meaning, measure.absent_reason if measure.value is None else "")
        rows.append(NumberRow(MEASURE_TITLES[name], format_value(measure), MEASURE_SCALES[name], note))
    return rows, others


def _row(name: str, estimate: Estimate, note: str, unit: str = "") -> NumberRow:
    value = format_value(estimate)
    return NumberRow(
        name=name,
        value=f"{value}{unit}" if value != ABSENT else value,
        interval=format_interval(estimate),
        note=join_notes(note, estimate.absent_reason),
    )


def _gain_note(gain: Gain) -> str:
    if gain.score is None or gain.baseline is None:
        return ""
    left_out = f", {gain.cases_left_out} left out" if gain.cases_left_out else ""
    sample = f"{pluralise(gain.cases, 'case')} of {pluralise(gain.groups, 'patient')}"
    return f"{format_number(gain.score)} against {format_number(gain.baseline)}, {sample}{left_out}"


def list_notes(result: CheckAnalysis) -> list[str]:
    """Lists the conventions of the metrics, and the reasons why a number of steps is absent."""
    notes = [
        f"{metric.title} with an empty mask: {metric.empty_mask}" for metric in result.metrics if metric.empty_mask
    ]
    reasons = [
        f"steps to 95 % of the {NETWORK_LABELS[network.network]}: {network.convergence.steps_to_95.absent_reason}"
        for network in result.networks
        if network.convergence.steps_to_95.absent_reason
    ]
    if result.naive_baseline.not_beaten:
        notes.append("‡ the fine-tuned model does not beat the naive baseline, a prediction without a network")
    return notes + reasons


def list_shift_notes(result: CheckAnalysis) -> list[str]:
    """Lists the reasons why numbers of the shift are absent, without duplicates."""
    reasons = []
    for layer in result.shift.layers:
        shifts = [layer.raw] if layer.standardised is None else [layer.standardised, layer.raw]
        for shift in shifts:
            reasons += [e.absent_reason for e in (shift.mmd2, shift.p_value, shift.p_value_max_t)]
        if layer.top_channels is not None and layer.top_channels.count:
            without = layer.top_channels.shift_without.mmd2
            reasons += [without.absent_reason] if without.value is None else []
    return [reason for reason in dict.fromkeys(reasons) if reason]
