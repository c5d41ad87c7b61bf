"""Figures of a monitor's page as inline SVG: the evidence by row of the stream, and the MMD² of windows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vfmalign.client.formatting import format_number
from vfmalign.reports.drawing.inline_svg import Axis, make_element, make_figure
from vfmalign.reports.drift.document import COMPONENT_LABELS, DriftDocument, Window
from vfmalign.reports.drift.wording import describe_window, format_power, name_power

TOP, BOTTOM = 14.0, 18.0
LEFT, WIDTH = 12.0, 87.0
"""In per cent of the figure's width, to leave space for the labels of the vertical axis."""
SCALE = 1000.0
"""Width and height of the plot in the coordinates of a line."""
LN10 = math.log(10.0)
LOWEST_POWER = -6.0
"""Evidence below 10⁻⁶ of its threshold is drawn at 10⁻⁶, because lower values are not informative."""
_STYLES = ("first", "second", "third", "fourth")


@dataclass(frozen=True)
class _Plot:
    """Two axes and the height of the figure in pixels."""

    x: Axis
    y: Axis
    height: float

    def place_y(self, value: float) -> float:
        """Returns the pixel of a value on the vertical axis."""
        return round(self.height - BOTTOM - self._share(self.y, value) * (self.height - TOP - BOTTOM), 2)

    def place_x(self, value: float) -> str:
        """Returns the horizontal position of a row."""
        return f"{LEFT + WIDTH * self._share(self.x, value):.3f}%"

    def draw_lines(self, *parts: Markup) -> Markup:
        """Places shapes in the area of the plot. The shapes use the coordinates of `list_points`."""
        size = {"x": f"{LEFT:g}%", "y": TOP, "width": f"{WIDTH:g}%", "height": self.height - TOP - BOTTOM}
        return make_element(
            "svg", *parts, viewBox=f"0 0 {SCALE:g} {SCALE:g}", preserveAspectRatio="none", aria_hidden="true", **size
        )

    def list_points(self, pairs: Sequence[tuple[float, float]]) -> str:
        """Returns the points of a line as SVG coordinates."""
        return " ".join(
            f"{SCALE * self._share(self.x, x):.1f},{SCALE * (1 - self._share(self.y, y)):.1f}" for x, y in pairs
        )

    def draw_frame(self, ticks: Sequence[tuple[float, str]]) -> Iterator[Markup]:
        """Draws the horizontal lines with their labels, and the row numbers below the plot."""
        ends = {"x1": f"{LEFT:g}%", "x2": f"{LEFT + WIDTH:g}%"}
        for value, label in ticks:
            y = self.place_y(value)
            yield make_element("line", **ends, y1=y, y2=y, class_="grid")
            yield make_element("text", label, x=f"{LEFT - 1:g}%", y=y + 4, text_anchor="end", class_="soft")
        for row in self.x.ticks():
            yield make_element(
                "text", f"{row:,.0f}", x=self.place_x(row), y=self.height - 2, text_anchor="middle", class_="soft"
            )

    @staticmethod
    def _share(axis: Axis, value: float) -> float:
        return (min(max(value, axis.low), axis.high) - axis.low) / (axis.high - axis.low)


def draw_evidence(document: DriftDocument) -> Markup:
    """Draws the alarm and each component's evidence per row. The axis shows evidence / threshold as powers of ten."""
    lines = [
        [
            (point.row, max((value - one.log_threshold) / LN10, LOWEST_POWER))
            for point in document.history
            if (value := point.log_evidence[place]) is not None
        ]
        for place, one in enumerate(document.components)
        if one.component != "first_patients"
    ]
    highest = max([0.0, *(power for line in lines for _, power in line)])
    lowest = max(LOWEST_POWER, min([0.0, *(power for line in lines for _, power in line)]))
    plot = _Plot(_make_row_axis(document), Axis(lowest - 0.2, highest + 0.08 * (highest - lowest)), 250.0)
    ticks = [
        (power, (name_power(int(power)) if abs(power) > 2 else f"{10.0**power:g}"))
        for power in plot.y.ticks()
        if power == round(power)
    ]
    parts = [*plot.draw_frame(ticks)]
    shapes = [
        make_element("polyline", points=plot.list_points(line), class_=f"line {style}")
        for line, style in zip(lines, _STYLES, strict=False)  # monitors of an earlier version have three components
    ]
    parts.append(plot.draw_lines(*shapes))
    y = plot.place_y(0.0)
    parts += [
        make_element("line", x1=f"{LEFT:g}%", x2=f"{LEFT + WIDTH:g}%", y1=y, y2=y, class_="threshold"),
        make_element("text", "threshold", x=f"{LEFT + 0.5:g}%", y=y - 4, class_="strong"),
    ]
    if document.alarm is not None:
        parts += _draw_alarm(plot, document.alarm.row)
    alarm = "no alarm" if document.alarm is None else f"alarm at row {document.alarm.row:,}"
    texts = [
        f"{COMPONENT_LABELS[one.component]}: {format_power(one.log_evidence)}, "
        f"threshold {format_power(one.log_threshold)}"
        for one in document.components
    ]
    description = f"{alarm}; after {document.rows:,} rows, {'; '.join(texts)}"
    return make_figure("evidence", "Evidence of drift by row, divided by its threshold", description, 250, parts)


def draw_windows(document: DriftDocument) -> Markup | None:
    """Draws MMD² per window, with its interval as a band, for the layer that raises the alarm. None without windows."""
    windows = [
        window
        for window in document.windows
        if window.layer == document.layer and not window.stratum and window.mmd2.value is not None
    ]
    if not windows:
        return None
    ends = [end for window in windows for end in _list_ends(window)]
    low, high = min(0.0, *ends), max(0.0, *ends)
    pad = 0.08 * (high - low) or 1.0
    plot = _Plot(_make_row_axis(document), Axis(low - pad, high + pad), 190.0)
    parts = [*plot.draw_frame([(value, format_number(value, 2) if value else "0") for value in plot.y.ticks()])]
    zero = plot.place_y(0.0)
    parts.append(make_element("line", x1=f"{LEFT:g}%", x2=f"{LEFT + WIDTH:g}%", y1=zero, y2=zero, class_="zero"))
    middles = [(window.first_row + window.last_row) / 2 for window in windows]
    banded = [(x, window.mmd2.interval) for x, window in zip(middles, windows, strict=True) if window.mmd2.interval]
    outline = [(x, one.upper) for x, one in banded] + [(x, one.lower) for x, one in reversed(banded)]
    values = [(x, float(window.mmd2.value or 0.0)) for x, window in zip(middles, windows, strict=True)]
    parts.append(
        plot.draw_lines(
            make_element("polygon", points=plot.list_points(outline), class_="band"),
            make_element("polyline", points=plot.list_points(values), class_="line first"),
        )
    )
    for (x, value), window in zip(values, windows, strict=True):
        interval = window.mmd2.interval
        if interval is not None:
            place = plot.place_x(x)
            y1, y2 = plot.place_y(interval.lower), plot.place_y(interval.upper)
            dashes = "4 3" if interval.degenerate else None
            parts.append(
                make_element("line", x1=place, x2=place, y1=y1, y2=y2, class_="interval", stroke_dasharray=dashes)
            )
        parts.append(make_element("circle", cx=plot.place_x(x), cy=plot.place_y(value), r=4, class_="mark main"))
    if document.alarm is not None:
        parts += _draw_alarm(plot, document.alarm.row)
    description = "; ".join(
        f"rows {window.first_row:,} to {window.last_row:,}: {describe_window(window)}" for window in windows
    )
    return make_figure("windows", "MMD² of windows with the reference, with intervals", description, 190, parts)


def _draw_alarm(plot: _Plot, row: int) -> Iterator[Markup]:
    x = plot.place_x(row)
    is_late = row > (plot.x.low + plot.x.high) / 2
    label = f"alarm, row {row:,} ▼" if is_late else f"▼ alarm, row {row:,}"
    yield make_element("line", x1=x, x2=x, y1=TOP, y2=plot.height - BOTTOM, class_="alarm")
    yield make_element("text", label, x=x, y=TOP - 3, text_anchor="end" if is_late else None, class_="bad")


def _make_row_axis(document: DriftDocument) -> Axis:
    return Axis(0.0, float(max(document.rows, 4)))


def _list_ends(window: Window) -> list[float]:
    interval = window.mmd2.interval
    ends = [window.mmd2.value, *((interval.lower, interval.upper) if interval is not None else ())]
    return [end for end in ends if end is not None]
