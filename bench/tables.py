"""Results as Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import machine
from bench.measure import MedianRange, Result, median_range


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass
class Section:
    """Results of one case: tables, sentences that summarise them, and records for programs."""

    name: str
    title: str
    tables: list[Table] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)


def to_markdown(section: Section) -> str:
    """Renders one section."""
    parts = [f"## {section.title}", *section.sentences]
    for table in section.tables:
        lines = [f"| {' | '.join(table.columns)} |", f"|{'---|' * len(table.columns)}"]
        lines += [f"| {' | '.join(row)} |" for row in table.rows]
        parts += [*([f"### {table.title}"] if table.title else []), "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def write(folder: Path, about: dict[str, object], sections: Sequence[Section]) -> tuple[Path, Path]:
    """Writes `results.json` and `results.md` and returns their paths.

    Called after every case, so that an interrupted run keeps its finished cases.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = {"machine": about, "sections": [asdict(section) for section in sections]}
    json_path, markdown_path = folder / "results.json", folder / "results.md"
    json_path.write_text(json.dumps(document, indent=1, default=str))
    rendered = [machine.sentence(about) + "\n", *(to_markdown(section) for section in sections)]
    markdown_path.write_text("\n".join(rendered))
    return json_path, markdown_path


def record(case: str, result: Result, **fields: Any) -> dict[str, Any]:
    """Returns one method's measurements, with the answers of all calls."""
    method = result.method
    return {
        "case": case,
        "method": method.name,
        "package": method.package,
        "arguments": method.arguments,
        "statistic": method.statistic,
        "warmed_up": result.warmed_up,
        "failure": result.failure,
        "turns": result.turns,
        **fields,
    }


def seconds(result: Result) -> str:
    """Formats the duration of a method; a single call without a warm-up is marked."""
    if not result.turns:
        return "–"
    figures = median_range(result.seconds)
    return with_range(figures) if result.warmed_up else f"{number(figures.median)} (one cold call)"


def with_range(figures: MedianRange) -> str:
    """Formats a median with its range."""
    return f"{number(figures.median)} ({number(figures.low)}–{number(figures.high)})"


def times(ratio: MedianRange | None) -> str:
    """Formats a ratio with its range."""
    if ratio is None:
        return "–"
    if ratio.low == ratio.high:
        return f"{number(ratio.median)}×"
    return f"{number(ratio.median)}× ({number(ratio.low)}–{number(ratio.high)})"


def percent(ratio: MedianRange | None) -> str:
    """Formats a share with its range."""
    if ratio is None:
        return "–"
    return f"{100 * ratio.median:.0f} % ({100 * ratio.low:.0f}–{100 * ratio.high:.0f})"


def megabytes(count: int | None) -> str:
    """Formats bytes as MB of 10⁶."""
    return "–" if count is None else f"{count / 1e6:,.0f}"


def number(value: float) -> str:
    """Formats a number to three digits."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def relative(value: float, truth: float | None) -> str:
    """Formats the relative error of a value."""
    if truth is None:
        return "other statistic"
    return f"{abs(value - truth) / abs(truth):.1e}"


def disturbance(results: Sequence[Result]) -> str:
    """Says how much of the machine other processes used during the counted calls."""
    shares = [float(turn.get("others", 0.0)) for result in results for turn in result.turns]
    if not shares:
        return "Nothing was measured."
    return f"Other processes used at most {100 * max(shares):.0f} % of the machine during a counted call."
