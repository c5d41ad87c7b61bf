"""HTML report of a check: a single self-contained file with embedded images, without scripts and links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vfmalign.analysis.checks.cautions import list_cautions
from vfmalign.analysis.checks.records import CheckAnalysis, CheckReport
from vfmalign.analysis.checks.shift import SATURATION_THRESHOLD, is_saturated
from vfmalign.client.messages.checks import CheckSpec
from vfmalign.core.domain.field_of_view import format_share
from vfmalign.core.domain.jobs import CaseScore, Network
from vfmalign.reports.checks import plots
from vfmalign.reports.checks.case_scores import Scored, list_worse_than_naive
from vfmalign.reports.checks.first_screen import make_first_screen
from vfmalign.reports.checks.number_rows import list_measures, list_notes, list_numbers, list_shift_notes
from vfmalign.reports.checks.seed_rows import list_component_rows, list_seed_notes, list_seed_rows
from vfmalign.reports.templating import load_template, to_data_url

MAX_CUT_ROWS = 50


@dataclass(frozen=True)
class ExampleSlice:
    """A PNG image that shows a network's prediction on one slice, with a caption."""

    network: Network
    png: bytes
    caption: str


@dataclass(frozen=True)
class PageSources:
    """Inputs of a page that the record of the report does not contain.

    Attributes:
        examples: example slices with predictions.
        scores: test scores of each network with the first training seed.
        spec: the request of the check.
    """

    examples: Sequence[ExampleSlice] = ()
    scores: Mapping[Scored, Sequence[CaseScore]] = field(default_factory=dict)
    spec: CheckSpec | None = None


def render(report: CheckReport, sources: PageSources) -> bytes:
    """Renders the report as UTF-8 HTML.

    Args:
        report: the record stored as `report.json`.
        sources: inputs that the record does not contain.
    """
    result = report.result
    further = [network for seed in result.seeds[1:] for network in seed.networks]
    labels = plots.FROZEN_LABELS if result.frozen else plots.NETWORK_LABELS
    curves = plots.draw_curves(result.networks, result.metric, further, labels)
    images = {"curves": to_data_url("image/svg+xml", curves)}
    if not result.frozen:
        images["shift"] = to_data_url("image/svg+xml", plots.draw_shift(result.shift))
    if result.shift.projection is not None and result.shift.projection.x:
        images["projection"] = to_data_url("image/svg+xml", plots.draw_projection(result.shift.projection))
    measures, unscaled = list_measures(result)
    html = load_template("check.html.j2", {"is_saturated": is_saturated, "share": format_share}).render(
        first=make_first_screen(report, result.metric, sources.scores, sources.spec),
        worse=[one.name for one in list_worse_than_naive(result)],
        report=report,
        r=result,
        run=report.run,
        labels=labels,
        metric=result.metric,
        numbers=list_numbers(result),
        measures=measures,
        unscaled=unscaled,
        seeds=list_seed_rows(result),
        components=list_component_rows(result),
        seed_notes=list_seed_notes(result),
        reused=_list_reused(report),
        cautions=list_cautions(result),
        cut_rows=result.cut_structures[:MAX_CUT_ROWS],
        notes=list_notes(result),
        shift_notes=list_shift_notes(result),
        top_channels=[layer for layer in result.shift.layers if layer.top_channels and layer.top_channels.count],
        level=_interval_level(result),
        saturation_threshold=SATURATION_THRESHOLD,
        images=images,
        examples=_group_examples(sources.examples),
    )
    return html.encode()


def _interval_level(result: CheckAnalysis) -> str:
    interval = result.rpg_specialised.absolute.interval
    return f"{100 * (interval.level if interval else 0.95):.0f} %"


def _list_reused(report: CheckReport) -> list[tuple[str, str]]:
    """Networks that a job of another check trained, each with the job."""
    result = report.result
    seeds = [(f", seed {seed.seed}", seed.networks) for seed in result.seeds] or [("", result.networks)]
    reused = []
    for number, (of_seed, networks) in enumerate(seeds, start=1):
        for network in networks:
            key = network.network if number == 1 else f"{network.network}_s{number}"
            job = report.run.trained_by.get(key, network.job_id)
            if not job.startswith(network.job_id):  # else its own job, or the trial of its recipe
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
