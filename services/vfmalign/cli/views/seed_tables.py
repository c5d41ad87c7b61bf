"""Results of a check by training seed, and the variance components of its gains."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table

from vfmalign.cli.views.tables import list_absent_reasons, new_table, to_text
from vfmalign.client.formatting import ABSENT, format_number, format_steps
from vfmalign.client.messages.checks import CheckResult, SeedSummary, SeedVariation, StepsSummary, VarianceComponents
from vfmalign.client.messages.common import Estimate
from vfmalign.core.formats.documents import pluralise


def show_seeds(result: CheckResult) -> list[RenderableType]:
    """Returns the results of every training seed and how they vary; nothing with one seed."""
    if result.seed_variation is None:
        return []
    return [_show_results(result, result.seed_variation), _show_components(result)]


def explain_seeds(result: CheckResult) -> list[RenderableType]:
    """Returns why means over the seeds are absent; nothing with one seed."""
    if (variation := result.seed_variation) is None:
        return []
    reasons = [
        Estimate(absent_reason=f"mean steps to {name}: {steps.absent_reason}")
        for name, steps in (
            ("95 %", variation.steps_to_95),
            ("the specialised network's best", variation.steps_to_baseline),
        )
        if steps.absent_reason
    ]
    return list_absent_reasons([*reasons, _get_primary(variation).mean])


def _show_results(result: CheckResult, variation: SeedVariation) -> Table:
    unit = f", {result.metric.unit}" if result.metric.unit else ""
    table = new_table(
        f"Results of {pluralise(len(result.seeds), 'training seed')} (intervals of one cover patients, not training)",
        "seed",
        f"MMD² of {result.primary_layer}",
        f"difference to specialised{unit}",
        f"difference to scratch{unit}",
        "steps to 95 %",
        "steps to specialised's best",
    )
    for seed in result.seeds:
        table.add_row(
            str(seed.seed),
            to_text(seed.shift),
            to_text(seed.rpg_specialised.absolute, signed=True),
            to_text(seed.rpg_scratch.absolute, signed=True),
            format_steps(seed.convergence.steps_to_95),
            format_steps(seed.convergence.steps_to_baseline),
        )
    primary = _get_primary(variation)
    table.add_row(
        "mean",
        to_text(primary.mean),
        to_text(result.rpg_specialised.absolute, signed=True),
        to_text(result.rpg_scratch.absolute, signed=True),
        _format_mean(variation.steps_to_95),
        _format_mean(variation.steps_to_baseline),
    )
    table.add_row(
        "SD",
        format_number(primary.standard_deviation),
        format_number(variation.specialised_deviation),
        format_number(variation.scratch_deviation),
        format_number(variation.steps_to_95.standard_deviation),
        format_number(variation.steps_to_baseline.standard_deviation),
    )
    return table


def _show_components(result: CheckResult) -> Table:
    unit = f", {result.metric.unit}" if result.metric.unit else ""
    columns = ("σ seed", "σ patient", "σ residual", "standard error", "degrees of freedom")
    table = new_table(
        f"Variance components of {result.metric.title}{unit}; 0* is a negative estimate set to 0", "of", *columns,
        numbers=columns,
    )  # fmt: skip
    for name, gain in (("specialised", result.rpg_specialised), ("scratch", result.rpg_scratch)):
        if (variance := gain.variance) is None:
            continue
        error = (format_number(variance.standard_error), format_number(variance.degrees_of_freedom))
        if name == "specialised":
            table.add_row("pretrained", *_format_components(variance.network), "", "")
        table.add_row(name, *_format_components(variance.baseline), "", "")
        if variance.another_draw:
            table.add_row(f"another draw of {name}", format_number(variance.another_draw**0.5), "", "", "", "")
        table.add_row(f"difference to {name}", *_format_components(variance.difference), *error)
    return table


def _format_components(components: VarianceComponents) -> list[str]:
    values = {"seed": components.seed, "patient": components.patient, "residual": components.residual}
    return ["0*" if name in components.set_to_zero else format_number(value**0.5) for name, value in values.items()]


def _format_mean(steps: StepsSummary) -> str:
    if steps.mean is None:
        return ABSENT
    if not steps.censored_seeds:
        return f"{steps.mean:.4g}"
    return f"> {steps.mean:.4g} (censored: seed {', '.join(map(str, steps.censored_seeds))})"


def _get_primary(variation: SeedVariation) -> SeedSummary:
    return variation.layers[0].standardised or variation.layers[0].raw
