"""Charts for the first screen of a report, as inline SVG: differences around zero, the shift, and the layers.

These charts fit any width and follow the light or dark style of the page. Images from matplotlib do not. The charts
also contain text for screen readers. Matplotlib draws the figures that need a plotting library. On the page, these
figures are collapsed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from markupsafe import Markup

from vfmalign.client.formatting import format_number, to_natural_order
from vfmalign.client.messages.common import Estimate
from vfmalign.reports.drawing.inline_svg import Axis, make_element, make_figure

ROW_HEIGHT = 58
MAX_LAYER_LABELS = 44
"""Number of characters of all layer names that fit next to each other on a narrow screen."""
MAX_ZOOM = 2.5
"""A row may widen the axis of a forest plot up to this multiple of the first row's width."""


@dataclass(frozen=True)
class ForestRow:
    """One difference in a forest plot.

    Attributes:
        label: name of the difference.
        estimate: value and interval.
        text: value and interval as text, or the reason why there is no value.
        bad: whether the texts have the colour that means "worse than the naive baseline".
    """

    label: str
    estimate: Estimate
    text: str
    bad: bool = False


@dataclass(frozen=True)
class LayerCell:
    """One layer in the strip of layers. The ratio is the layer's shift divided by its shift to random weights."""

    name: str
    ratio: float | None
    primary: bool
    saturated: bool = False


@dataclass(frozen=True)
class SharePart:
    """One segment of a bar of shares, with its mark, label, count and CSS class."""

    mark: str
    label: str
    count: int
    style: str


def draw_forest(
    rows: Sequence[ForestRow],
    *,
    identifier: str,
    title: str,
    ends: tuple[str, str],
    band: float = 0.0,
    limits: tuple[float, float] | None = None,
    format_tick: Callable[[float], str],
) -> Markup:
    """Draws differences with their intervals around zero.

    An arrow marks an interval that extends beyond the end of the axis.

    Args:
        rows: differences. The first row is the main difference and determines the axis.
        identifier: id of the figure.
        title: title of the figure.
        ends: labels that explain what values to the left and to the right of zero mean.
        band: half the width of the band around zero; 0 for no band.
        limits: limits of the axis. By default, the limits are derived from the rows.
        format_tick: function that formats the label of a tick.
    """
    axis = Axis(*(limits or _choose_limits([row.estimate for row in rows], band)))
    bottom = ROW_HEIGHT * len(rows) + 4
    parts = [_draw_axis(axis, bottom, format_tick)]
    for place, row in enumerate(rows):
        parts += _draw_forest_row(axis, row, ROW_HEIGHT * place, band, main=place == 0)
    parts += [
        make_element("text", f"← {ends[0]}", x="0%", y=bottom + 34, class_="soft"),
        make_element("text", f"{ends[1]} →", x="100%", y=bottom + 34, class_="soft", text_anchor="end"),
    ]
    description = "; ".join(f"{row.label}: {row.text}" for row in rows)
    return make_figure(identifier, title, description, bottom + 40, parts)


def draw_shift_scale(shift: Estimate, random: float | None, text: str) -> Markup:
    """Draws a shift with its interval. The scale goes from 0 (nothing moved) to the shift to random weights.

    Args:
        shift: MMD² with its interval.
        random: MMD² to random weights; None if nothing moved, because MMD² is then unknown.
        text: text that states both numbers.
    """
    point, *ends = [value / random if random else 0.0 for value in _list_ends(shift)]
    axis = Axis(min(0.0, point, *ends), max(1.0, point, *ends))
    parts = [
        make_element("line", x1=axis.place(axis.low), x2=axis.place(axis.high), y1=22, y2=22, class_="axis"),
        *(_draw_tick(axis, value, 16, 28) for value in (0.0, 0.25, 0.5, 0.75, 1.0)),
        make_element("text", "0, unchanged", x="0%", y=46, class_="soft"),
        make_element("text", "random weights", x=axis.place(1.0), y=46, class_="soft", text_anchor="end"),
    ]
    if random and ends:
        parts.append(_draw_line(axis, *ends, y=22, name="interval main", degenerate=shift.degenerate))
    parts.append(make_element("circle", cx=axis.place(point), cy=22, r=6, class_="mark main"))
    return make_figure("shift-scale", "Shift on a scale from 0 to random weights", text, 52, parts)


def draw_layer_strip(layers: Sequence[LayerCell]) -> Markup:
    """Draws one cell per layer, with the layer's ratio above and name below. Layers with a larger ratio are darker."""
    cells = sorted(layers, key=lambda cell: to_natural_order(cell.name))
    names = shorten_names([cell.name for cell in cells])
    shown = set(range(len(cells)))
    if max(map(len, [*names, "0.000"])) * len(cells) > MAX_LAYER_LABELS:
        shown = {0, len(cells) - 1}
    width = 100 / len(cells)
    parts: list[Markup] = []
    for place, (cell, name) in enumerate(zip(cells, names, strict=True)):
        parts += _draw_layer(cell, name, place * width, width, labelled=place in shown)
    texts = (
        f"{cell.name}: {format_number(cell.ratio)}{', saturated' if cell.saturated else ''}"
        f"{', primary layer' if cell.primary else ''}"
        for cell in cells
    )
    title = "Shift of each layer, as a share of the shift to random weights"
    return make_figure("layer-strip", title, "; ".join(texts), 62, parts)


def draw_shares(parts: Sequence[SharePart], *, identifier: str, title: str) -> Markup:
    """Draws a bar with one segment per part, in the order of `parts`. The counts are shown above the bar."""
    total = sum(part.count for part in parts)
    elements, left = [], 0.0
    for place, part in enumerate(parts):
        width = 100 * part.count / total
        elements.append(
            make_element("rect", x=f"{left:.2f}%", y=20, width=f"{width:.2f}%", height=14, class_=f"share {part.style}")
        )
        left += width
        share = place / (len(parts) - 1)
        anchor = {0.0: None, 1.0: "end"}.get(share, "middle")
        text = f"{part.mark} {part.count} {part.label}".strip()
        elements.append(make_element("text", text, x=f"{100 * share:g}%", y=13, text_anchor=anchor))
    description = ", ".join(f"{part.count} of {total} {part.label}" for part in parts)
    return make_figure(identifier, title, description, 38, elements)


def shorten_names(names: Sequence[str]) -> list[str]:
    """Removes the leading components that all names share."""
    parts = [name.split(".") for name in names]
    if len(parts) < 2:
        return list(names)
    columns = zip(*(part[:-1] for part in parts), strict=False)
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    return [".".join(part[shared:]) for part in parts]


def _draw_layer(cell: LayerCell, name: str, left: float, width: float, *, labelled: bool) -> Iterator[Markup]:
    style = "cell primary" if cell.primary else "cell"
    opacity = 0.0 if cell.ratio is None else round(min(max(cell.ratio, 0.0), 1.0), 3)
    box = {"x": f"{left:.3f}%", "y": 18, "width": f"{width:.3f}%", "height": 22}
    yield make_element("rect", **box, class_=style, fill_opacity=opacity)
    if labelled:
        first, last = left < 1e-9, left + width > 100 - 1e-9
        middle = {"x": f"{left + width / 2:.3f}%", "text_anchor": "middle"}
        at = middle if width > 15 or not (first or last) else (
            {"x": "0%"} if first else {"x": "100%", "text_anchor": "end"}
        )  # fmt: skip
        value = format_number(cell.ratio) + (" †" if cell.saturated else "")
        yield make_element("text", value, **at, y=13, class_="strong" if cell.primary else None)
        yield make_element("text", name, **at, y=56, class_="strong" if cell.primary else "soft")


def _choose_limits(estimates: Sequence[Estimate], band: float) -> tuple[float, float]:
    """Limits that include zero, the band and the first estimate, and the other estimates if they are not far larger."""
    first = [0.0, 1.6 * band, -1.6 * band, *(_list_ends(estimates[0]) if estimates else ())]
    limit = MAX_ZOOM * max(map(abs, first))
    others = [end for estimate in estimates[1:] for end in _list_ends(estimate)]
    ends = first + [end for end in others if not limit or abs(end) <= limit]
    low, high = min(ends), max(ends)
    pad = 0.06 * (high - low) or 1.0
    return low - pad, high + pad


def _list_ends(estimate: Estimate) -> list[float]:
    interval = estimate.interval
    ends = (estimate.value, *((interval.lower, interval.upper) if interval is not None else ()))
    return [end for end in ends if end is not None]


def _draw_axis(axis: Axis, bottom: int, format_tick: Callable[[float], str]) -> Markup:
    ticks = [
        make_element("text", format_tick(value), x=axis.place(value), y=bottom + 17, text_anchor="middle")
        for value in axis.ticks()
    ]
    line = make_element("line", x1="0%", x2="100%", y1=bottom, y2=bottom, class_="axis")
    return make_element("g", line, *ticks, class_="soft")


def _draw_forest_row(axis: Axis, row: ForestRow, top: int, band: float, *, main: bool) -> Iterator[Markup]:
    """Draws the texts of a row and, below them, its interval on top of the band and the line at zero."""
    style = " ".join(filter(None, ("strong" if main else "", "bad" if row.bad else ""))) or None
    yield make_element("text", row.label, x="0%", y=top + 14, class_=style)
    yield make_element("text", row.text, x="0%", y=top + 30, class_=style)
    upper, y, lower = top + 35, top + 45, top + 55
    if band:
        yield make_element("rect", x=axis.place(-band), y=upper, width=axis.width(-band, band), height=lower - upper,
                           class_="band")  # fmt: skip
    yield make_element("line", x1=axis.place(0), x2=axis.place(0), y1=upper, y2=lower, class_="zero")
    estimate, name = row.estimate, " main" if main else ""
    if estimate.value is None:
        return
    if (interval := estimate.interval) is not None:
        yield _draw_line(
            axis, interval.lower, interval.upper, y=y, name=f"interval{name}", degenerate=interval.degenerate
        )
    for sign, edge, beyond in (("◂", "0%", min(_list_ends(estimate)) < axis.low),
                               ("▸", "100%", max(_list_ends(estimate)) > axis.high)):  # fmt: skip
        if beyond:
            anchor = "end" if edge == "100%" else None
            yield make_element("text", sign, x=edge, y=y + 5, text_anchor=anchor, class_="arrow")
    if axis.holds(estimate.value):
        yield make_element("circle", cx=axis.place(estimate.value), cy=y, r=6 if main else 4.5, class_=f"mark{name}")


def _draw_line(axis: Axis, low: float, high: float, *, y: int, name: str, degenerate: bool) -> Markup:
    dashes = "4 3" if degenerate else None
    return make_element(
        "line", x1=axis.place(low), x2=axis.place(high), y1=y, y2=y, class_=name, stroke_dasharray=dashes
    )


def _draw_tick(axis: Axis, value: float, top: int, bottom: int) -> Markup:
    return make_element("line", x1=axis.place(value), x2=axis.place(value), y1=top, y2=bottom, class_="axis")
