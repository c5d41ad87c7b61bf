"""Inline SVG elements. They use the colours of the page, and the size of their text is the same at every width.

Horizontal positions are percentages of the width; vertical positions are in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup, escape


def make_element(name: str, *children: str, **attributes: object) -> Markup:
    """Returns an SVG element and escapes its children and values.

    In the names of attributes, `class_` becomes `class` and underscores become hyphens. Attributes that are None or
    False are left out.
    """
    pairs = (
        (key.rstrip("_").replace("_", "-"), value)
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    head = "".join(f' {key}="{escape(_format(value))}"' for key, value in pairs)
    return Markup(f"<{name}{head}>{''.join(map(escape, children))}</{name}>")  # noqa: S704 (all parts are escaped)


def make_figure(identifier: str, title: str, description: str, height: int, parts: Iterable[Markup]) -> Markup:
    """Returns an SVG that is as wide as its container. The SVG has a title and a description for screen readers.

    Args:
        identifier: id of the element, unique in its page.
        title: title of the figure.
        description: text that states the numbers of the figure.
        height: in pixels.
        parts: its elements.
    """
    return make_element(
        "svg",
        make_element("title", title, id=f"{identifier}-title"),
        make_element("desc", description, id=f"{identifier}-desc"),
        *parts,
        id=identifier, class_="chart", role="img", height=height,
        aria_labelledby=f"{identifier}-title", aria_describedby=f"{identifier}-desc",
    )  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """A horizontal axis from `low` to `high`, with a margin at both sides of the figure."""

    low: float
    high: float
    margin: float = 2.0

    def place(self, value: float) -> str:
        """Position of a value. If the value is beyond the axis, returns the position of the nearer end of the axis."""
        return f"{self._percent(value):.2f}%"

    def width(self, low: float, high: float) -> str:
        """Width between two values."""
        return f"{self._percent(high) - self._percent(low):.2f}%"

    def holds(self, value: float) -> bool:
        """Whether a value is between the ends of the axis."""
        return self.low <= value <= self.high

    def ticks(self) -> list[float]:
        """Three to eight round values on the axis."""
        third = (self.high - self.low) / 3
        power = 10.0 ** math.floor(math.log10(third))
        step = next(factor * power for factor in (5, 2, 1) if factor * power <= third)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [round(index * step, 12) for index in range(first, last + 1)]

    def _percent(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.margin + (100 - 2 * self.margin) * share


def _format(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
