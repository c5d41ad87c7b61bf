"""Shows the response of `MmdService.Compute` as tables. MMD² has no unit; σ is in units of the (scaled) features."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vfmalign.cli.views.tables import (
    BELOW_ERROR_BOUND,
    DEGENERATE,
    format_mmd2,
    list_absent_reasons,
    list_top_channels_estimates,
    new_table,
    separate_tables,
    show_top_channels,
    to_text,
)
from vfmalign.client.formatting import ABSENT, format_number
from vfmalign.client.messages.common import Estimate
from vfmalign.client.messages.mmd import ComputeResponse, LayerResult, ShiftResult

Column = tuple[str, Callable[[ShiftResult], str]]


def comparison(response: ComputeResponse) -> list[RenderableType]:
    """Returns tables of MMD² per layer and scaling, tables of other measures, and the meaning of the marks."""
    shifts = [shift for layer in response.layers for _, shift in _list_scalings(layer)]
    optional = _choose_columns(shifts)
    lines: list[RenderableType] = [
        _show_shifts(response, optional),
        *show_top_channels(response.layers),
        *_show_measures(response),
    ]
    if any(shift.below_error_bound for shift in shifts):
        lines.append(Text(BELOW_ERROR_BOUND, style="dim"))
    if any(shift.mmd2.degenerate for shift in shifts):
        lines.append(Text(DEGENERATE, style="dim"))
    if response.backend_note:
        lines.append(Text(response.backend_note, style="dim"))
    lines += list_absent_reasons(_list_estimates(response, shifts))
    if response.reference_caution:
        lines.append(Text(f"! {response.reference_caution}", style="yellow"))
    for layer in response.layers:
        cautions = [part.caution for part in (layer.top_channels, layer.excluded_movement) if part is not None]
        lines += [Text(f"! {layer.layer}: {caution}", style="yellow") for caution in cautions if caution]
    return separate_tables(lines)


def _show_shifts(response: ComputeResponse, optional: Sequence[Column]) -> Table:
    titles = [title for title, _ in optional]
    table = new_table(
        f"MMD² ({response.estimator}; {response.rows_x} and {response.rows_y} rows, "
        f"{response.groups} groups; {response.precision} by {response.backend or 'torch'} on {response.cost.device})",
        "layer",
        "channels",
        "features",
        "MMD² [interval]",
        "σ",
        "p",
        "p max-T",
        *titles,
        numbers=["channels", "σ", "p", "p max-T", *titles],
    )
    for layer in response.layers:
        for scaling, shift in _list_scalings(layer):
            table.add_row(
                layer.layer,
                str(layer.channels),
                scaling,
                format_mmd2(shift),
                format_number(shift.sigma),
                to_text(shift.p_value),
                to_text(shift.p_value_max_t),
                *(format_cell(shift) for _, format_cell in optional),
            )
    return table


def _list_scalings(layer: LayerResult) -> list[tuple[str, ShiftResult]]:
    raw = ("raw", layer.raw)
    return [raw] if layer.standardised is None else [("standardised", layer.standardised), raw]


def _show_measures(response: ComputeResponse) -> list[RenderableType]:
    """Returns the further measures, which are taken of the standardised features if there are any."""
    if not any(layer.measures for layer in response.layers):
        return []
    table = new_table(
        "Beside MMD²", "layer", "measure", "features", "value", "dimension", numbers=["value", "dimension"]
    )
    for layer in response.layers:
        features = "standardised" if layer.standardised is not None else "raw"
        for measure in layer.measures:
            dimension = str(measure.dimension or ABSENT)
            table.add_row(layer.layer, measure.measure, features, to_text(measure.value), dimension)
    return [table]


def _choose_columns(shifts: Sequence[ShiftResult]) -> list[Column]:
    """Returns the columns that only some requests fill."""
    columns: list[Column] = []
    if any(shift.aggregated_p_value.value is not None for shift in shifts):
        columns.append(("p aggregated", lambda shift: to_text(shift.aggregated_p_value)))
    if any(shift.approximation_error > 0.0 for shift in shifts):
        columns.append(("± approximation (99 %)", lambda shift: format_number(shift.approximation_error)))
    return columns


def _list_estimates(response: ComputeResponse, shifts: Sequence[ShiftResult]) -> list[Estimate]:
    """Returns the estimates that need a reason for a missing value or interval."""
    estimates = [estimate for s in shifts for estimate in (s.mmd2, s.p_value, s.p_value_max_t)]
    if any(shift.aggregated_p_value.value is not None for shift in shifts):
        estimates += [shift.aggregated_p_value for shift in shifts]
    # No interval is ever formed for these: only a missing value needs a reason.
    values = [measure.value for layer in response.layers for measure in layer.measures]
    estimates += list_top_channels_estimates(response.layers)
    return estimates + [value for value in values if value.value is None]
