"""Renders a check's report as one HTML file that needs nothing else: no script, no link, every picture inside.

Knows the records of `results` and the template. Knows nothing of S3, gRPC or how numbers are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache

import jinja2

from vfmalign.core.domain.artifacts import Network
from vfmalign.core.domain.documents import pluralise
from vfmalign.finetuning.analysis.estimates import Estimate
from vfmalign.finetuning.analysis.gain import Gain
from vfmalign.finetuning.analysis.records import (
    MEANINGS,
    SATURATION_THRESHOLD,
    CheckReport,
    CheckResult,
    cautions,
    is_saturated,
)
from vfmalign.finetuning.reports import plots
from vfmalign.finetuning.reports.formatting import (
    ABSENT,
    data_url,
    number,
    p_value,
    sentence,
    span,
    steps,
    value_of,
    words,
)

_VERDICT_COLOURS = {
    "gain": "#009E73",
    "harm": "#D55E00",
    "no_clear_gain": "#888888",
    "insufficient_data": "#b58900",
}


@dataclass(frozen=True)
class Picture:
    """One example slice: PNG bytes and what they show."""

    network: Network
    png: bytes
    caption: str


@dataclass(frozen=True)
class NumberRow:
    """One row of the table of numbers, ready to print."""

    name: str
    value: str
    interval: str
    note: str


def render(report: CheckReport, pictures: Sequence[Picture]) -> bytes:
    """The report as UTF-8 HTML.

    Args:
        report: the record that is stored beside it.
        pictures: example slices with predictions.
    """
    result = report.result
    metric = next(metric for metric in result.metrics if metric.name == result.primary_metric)
    drawings = {
        "shift": data_url("image/svg+xml", plots.draw_shift(result.shift)),
        "curves": data_url("image/svg+xml", plots.draw_curves(result.networks, metric)),
    }
    if result.shift.projection is not None and result.shift.projection.before:
        drawings["projection"] = data_url("image/svg+xml", plots.draw_projection(result.shift.projection))
    if result.probes:
        drawings["probes"] = data_url("image/svg+xml", plots.draw_probes(result.probes, metric))
    html = _template().render(
        report=report,
        r=result,
        run=report.run,
        names=plots.NAMES,
        metric=metric,
        numbers=number_rows(result),
        measures=measure_rows(result),
        cautions=cautions(result),
        notes=_notes(result),
        shift_notes=_shift_notes(result),
        probe_notes=[
            reason for reason in dict.fromkeys(probe.shift.absent_reason for probe in result.probes) if reason
        ],
        level=_level(result),
        saturated=SATURATION_THRESHOLD,
        pictures=drawings,
        slices=_slices(pictures),
        verdict_colour=_VERDICT_COLOURS[result.verdict.word],
    )
    return html.encode()


def number_rows(result: CheckResult) -> list[NumberRow]:
    """The main table: shift, gains, and what the words mean."""
    primary = result.shift.layer(result.shift.primary_layer)
    shift = (primary.standardised or primary.raw).mmd2
    unit = next(metric.unit for metric in result.metrics if metric.name == result.primary_metric)
    rows = [
        _row(f"shift, MMD² of {primary.layer}", shift, "how far the features of the same cases moved"),
        _row(
            "shift ratio",
            result.shift_ratio[primary.layer],
            "in units of the shift to random weights; comparable between models",
        ),
    ]
    gains: tuple[tuple[str, Gain], ...] = (
        ("specialised network", result.rpg_specialised),
        ("random weights", result.rpg_scratch),
    )
    difference_unit = f" {unit}" if unit else ""
    for name, gain in gains:
        rows.append(_row(f"relative gain over {name}", gain.relative, _gain_note(gain), unit=" %"))
        rows.append(_row(f"difference to {name}", gain.difference, "above zero is better", unit=difference_unit))
    if result.naive_baseline is not None:
        mark = " ‡" if result.naive_baseline.not_beaten else ""
        note = f"{result.naive_baseline.prediction}: {_gain_note(result.naive_baseline.gain)}"
        difference = result.naive_baseline.gain.difference
        rows.append(_row(f"difference to naive baseline{mark}", difference, note, unit=difference_unit))
    return rows


def measure_rows(result: CheckResult) -> list[NumberRow]:
    """The table of measures beside MMD²: an absent one with its reason, any other with what its values mean."""
    rows = []
    for name, meaning in MEANINGS.items():
        if (found := result.measures.get(name)) is not None:
            note = meaning if found.value is not None else found.absent_reason
            rows.append(NumberRow(name=name, value=value_of(found), interval="", note=note))
    return rows


def _row(name: str, estimate: Estimate, note: str, unit: str = "") -> NumberRow:
    value = value_of(estimate)
    return NumberRow(
        name=name,
        value=f"{value}{unit}" if value != ABSENT else value,
        interval=span(estimate),
        note=estimate.absent_reason or note,
    )


def _gain_note(gain: Gain) -> str:
    if gain.score is None or gain.baseline is None:
        return ""
    left_out = f", {gain.cases_left_out} left out" if gain.cases_left_out else ""
    held = f"{pluralise(gain.cases, 'case')} of {pluralise(gain.groups, 'patient')}"
    return f"{number(gain.score)} against {number(gain.baseline)}, {held}{left_out}"


def _notes(result: CheckResult) -> list[str]:
    notes = [
        f"{metric.name.replace('_', ' ')} with an empty mask: {metric.empty_mask}"
        for metric in result.metrics
        if metric.empty_mask
    ]
    reasons = [
        f"steps to 95 % of the {plots.NAMES[network.network]}: {network.convergence.steps_to_95.absent_reason}"
        for network in result.networks
        if network.convergence.steps_to_95.absent_reason
    ]
    if result.naive_baseline is not None and result.naive_baseline.not_beaten:
        notes.append("‡ the fine-tuned model does not beat the naive baseline, which no network makes")
    return notes + reasons


def _shift_notes(result: CheckResult) -> list[str]:
    """Why numbers of the shift are absent, each reason once."""
    reasons = []
    for layer in result.shift.layers:
        shifts = [layer.raw] if layer.standardised is None else [layer.standardised, layer.raw]
        for shift in shifts:
            reasons += [e.absent_reason for e in (shift.mmd2, shift.p_value, shift.p_value_max_t)]
    return [reason for reason in dict.fromkeys(reasons) if reason]


def _level(result: CheckResult) -> str:
    interval = result.rpg_specialised.difference.interval
    return f"{100 * (interval.level if interval else 0.95):.0f} %"


def _slices(pictures: Sequence[Picture]) -> list[Mapping[str, object]]:
    groups: list[Mapping[str, object]] = []
    for network in plots.NAMES:
        figures = [
            {"data": data_url("image/png", picture.png), "caption": picture.caption}
            for picture in pictures
            if picture.network == network
        ]
        if figures:
            groups.append({"network": network, "figures": figures})
    return groups


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vfmalign.finetuning.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "grouped": lambda value: f"{value:,}".replace(",", "\u202f"),
        "moment": _moment,
        "number": number,
        "far": is_saturated,
        "p": lambda estimate: p_value(estimate.value),
        "seconds": lambda value: ABSENT if value is None else f"{value:.1f}",
        "sentence": sentence,
        "span": span,
        "steps": steps,
        "value": value_of,
        "words": words,
    }
    return environment.get_template("report.html.j2")


def _moment(value: datetime) -> str:
    return value.strftime("%d %B %Y, %H:%M UTC")
