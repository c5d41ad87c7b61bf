"""Rows about training seeds in a check's report: results per seed, their mean and spread, and variance components."""

from __future__ import annotations

from dataclasses import dataclass

from vfmalign.analysis.checks.records import CheckAnalysis, SeedAnalysis
from vfmalign.client.formatting import ABSENT, format_interval, format_number, format_steps
from vfmalign.client.messages.checks import StepsSummary, VarianceComponents
from vfmalign.client.messages.common import Estimate


@dataclass(frozen=True)
class SeedRow:
    """One formatted row of the table of seeds."""

    name: str
    shift: str
    specialised: str
    scratch: str
    steps_to_95: str
    steps_to_baseline: str


@dataclass(frozen=True)
class ComponentRow:
    """One formatted row of the table of variance components. The row shows standard deviations."""

    name: str
    seed: str
    patient: str
    residual: str
    standard_error: str = ""
    degrees: str = ""


def list_seed_rows(result: CheckAnalysis) -> list[SeedRow]:
    """Lists one row per seed, a row of means and a row of standard deviations. Empty for a single seed."""
    if (variation := result.seed_variation) is None:
        return []
    primary = variation.layers[0].standardised or variation.layers[0].raw
    mean = SeedRow(
        "mean",
        _format(primary.mean),
        _format(result.rpg_specialised.absolute),
        _format(result.rpg_scratch.absolute),
        _format_mean(variation.steps_to_95),
        _format_mean(variation.steps_to_baseline),
    )
    deviation = SeedRow(
        "standard deviation",
        format_number(primary.standard_deviation),
        format_number(variation.specialised_deviation),
        format_number(variation.scratch_deviation),
        format_number(variation.steps_to_95.standard_deviation),
        format_number(variation.steps_to_baseline.standard_deviation),
    )
    return [*(_make_seed_row(seed) for seed in result.seeds), mean, deviation]


def list_component_rows(result: CheckAnalysis) -> list[ComponentRow]:
    """Lists variance components, with one row per network and per difference of the gains. Empty for a single seed."""
    rows: list[ComponentRow] = []
    gains = (("specialised network", result.rpg_specialised), ("random weights", result.rpg_scratch))
    for name, gain in gains:
        if (variance := gain.variance) is None:
            continue
        if not rows:
            rows.append(_make_component_row("foundation model", variance.network))
        rows.append(_make_component_row(name, variance.baseline))
        error, degrees = format_number(variance.standard_error), format_number(variance.degrees_of_freedom)
        rows.append(_make_component_row(f"difference to {name}", variance.difference, error, degrees))
    return rows


def list_seed_notes(result: CheckAnalysis) -> list[str]:
    """Explains which means over the seeds are absent and which are only bounds."""
    if (variation := result.seed_variation) is None:
        return []
    notes = []
    for name, steps in (
        ("95 %", variation.steps_to_95),
        ("the specialised network's best", variation.steps_to_baseline),
    ):
        if steps.absent_reason:
            notes.append(f"mean steps to {name}: {steps.absent_reason}")
        if steps.censored_seeds:
            seeds = ", ".join(map(str, steps.censored_seeds))
            notes.append(f"mean steps to {name}: censored in seed {seeds}, so that the true mean is larger")
    return notes


def _make_seed_row(seed: SeedAnalysis) -> SeedRow:
    primary = seed.shift.get_layer(seed.shift.primary_layer)
    convergence = seed.network("pretrained").convergence
    return SeedRow(
        str(seed.seed),
        _format((primary.standardised or primary.raw).mmd2),
        _format(seed.rpg_specialised.absolute),
        _format(seed.rpg_scratch.absolute),
        format_steps(convergence.steps_to_95),
        format_steps(convergence.steps_to_baseline),
    )


def _make_component_row(name: str, components: VarianceComponents, error: str = "", degrees: str = "") -> ComponentRow:
    values = {"seed": components.seed, "patient": components.patient, "residual": components.residual}
    texts = {
        key: "0 *" if key in components.set_to_zero else format_number(value**0.5) for key, value in values.items()
    }
    return ComponentRow(name, **texts, standard_error=error, degrees=degrees)


def _format(estimate: Estimate) -> str:
    value = format_number(estimate.value)
    return value if estimate.interval is None else f"{value} ({format_interval(estimate)})"


def _format_mean(steps: StepsSummary) -> str:
    if steps.mean is None:
        return ABSENT
    return f"> {format_number(steps.mean)}" if steps.censored_seeds else format_number(steps.mean)
