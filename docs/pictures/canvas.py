"""A small SVG canvas for the diagrams of the documentation: boxes, borders, arrows and text in one style."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

STYLE = """
text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1f2933; font-size: 14px; }
.small { font-size: 12px; fill: #52606d; }
.title { font-weight: 600; }
.box { fill: #ffffff; stroke: #7b8794; }
.gpu { fill: #e8f3ec; stroke: #3f8f5f; }
.state { fill: #eef2fb; stroke: #4c6fbf; }
.harm { fill: #fbeae3; stroke: #b44d12; }
.outside { fill: #f6f6f6; stroke: #9aa5b1; }
.border { fill: none; stroke: #b44d12; stroke-dasharray: 6 4; }
.border-name { fill: #b44d12; font-size: 12px; }
.arrow { stroke: #52606d; stroke-width: 1.4; fill: none; }
.answer { stroke-dasharray: 4 3; }
.lifeline { stroke: #cbd2d9; }
.head { fill: #52606d; }
.ground { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
  text { fill: #e4e7eb; }
  .small { fill: #9aa5b1; }
  .box { fill: #1f2933; stroke: #7b8794; }
  .gpu { fill: #17301f; stroke: #5fb583; }
  .state { fill: #1a2440; stroke: #7f9de0; }
  .harm { fill: #3a2116; stroke: #e08a4f; }
  .outside { fill: #262f38; stroke: #7b8794; }
  .border { stroke: #e08a4f; }
  .border-name { fill: #e08a4f; }
  .arrow { stroke: #cbd2d9; }
  .lifeline { stroke: #3e4c59; }
  .head { fill: #cbd2d9; }
  .ground { fill: #12181e; }
}
"""
HEAD = 7
"""Length of an arrow's head in pixels."""
LINE = 18
"""Distance of two lines of text in pixels."""


@dataclass
class Canvas:
    """A drawing that grows by calls; positions are pixels from the upper left corner.

    Attributes:
        width, height: size of the drawing.
        title: what it shows, for screen readers.
        description: the same in full.
    """

    width: int
    height: int
    title: str
    description: str
    parts: list[str] = field(default_factory=list)

    def box(self, at: tuple[int, int], size: tuple[int, int], title: str, *lines: str, kind: str = "box") -> None:
        """Draws a box with a centred title and smaller lines below it."""
        (x, y), (width, height) = at, size
        self.parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>')
        middle = x + width // 2
        first = y + (height - LINE * len(lines)) // 2 + 5
        self.text((middle, first), title, "title", anchor="middle")
        for number, line in enumerate(lines, 1):
            self.text((middle, first + LINE * number), line, "small", anchor="middle")

    def border(self, at: tuple[int, int], size: tuple[int, int], name: str) -> None:
        """Draws a dashed border of trust with its name above the upper edge."""
        (x, y), (width, height) = at, size
        self.parts.append(f'<rect class="border" x="{x}" y="{y}" width="{width}" height="{height}" rx="10"/>')
        self.text((x + 8, y - 7), name, "border-name")

    def arrow(self, *points: tuple[int, int], label: str = "", at: tuple[int, int] = (0, 0), kind: str = "") -> None:
        """Draws a line of horizontal and vertical parts with a head at its end.

        Args:
            points: start, corners and end.
            label: text beside it.
            at: where the text is centred.
            kind: further class, such as `answer`.
        """
        (x0, y0), (x1, y1) = points[-2:]
        step_x, step_y = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
        path = " ".join(f"{x},{y}" for x, y in (*points[:-1], (x1 - step_x * HEAD, y1 - step_y * HEAD)))
        self.parts.append(f'<polyline class="{f"arrow {kind}".strip()}" points="{path}"/>')
        back_x, back_y = x1 - step_x * (HEAD + 2), y1 - step_y * (HEAD + 2)
        corners = [(x1, y1), (back_x + step_y * 4, back_y + step_x * 4), (back_x - step_y * 4, back_y - step_x * 4)]
        self.parts.append(f'<polygon class="head" points="{" ".join(f"{x},{y}" for x, y in corners)}"/>')
        if label:
            self.text(at, label, "small", anchor="middle")

    def text(self, at: tuple[int, int], text: str, kind: str = "", *, anchor: str = "start") -> None:
        """Writes one line, whose baseline begins, or is centred, at a point."""
        x, y = at
        self.parts.append(f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>')

    def line(self, start: tuple[int, int], end: tuple[int, int], kind: str) -> None:
        """Draws a line without heads."""
        (x0, y0), (x1, y1) = start, end
        self.parts.append(f'<line class="{kind}" x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}"/>')

    def to_svg(self) -> str:
        """Returns the drawing as a file that suits light and dark pages."""
        size = f'width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}"'
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title description">\n'
            f'<title id="title">{escape(self.title)}</title>\n'
            f'<desc id="description">{escape(self.description)}</desc>\n'
            f"<style>{STYLE}</style>\n"
            f'<rect class="ground" width="{self.width}" height="{self.height}"/>\n{body}\n</svg>\n'
        )
