"""Markdown and JSON of what was measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import machine
from bench.measure import Result, Spread


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass
class Section:
    """One case: tables to read, sentences that draw from them, and records for machines."""

    name: str
    title: str
    tables: list[Table] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)


def markdown(section: Section) -> str:
    """One section."""
    parts = [f"## {section.title}", *section.sentences]
    for table in section.tables:
        lines = [f"| {' | '.join(table.columns)} |", f"|{'---|' * len(table.columns)}"]
        lines += [f"| {' | '.join(row)} |" for row in table.rows]
        parts += [*([f"### {table.title}"] if table.title else []), "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def write(folder: Path, about: dict[str, object], sections: Sequence[Section]) -> tuple[Path, Path]:
    """`results.json` and `results.md`; called after every case, so that an interrupted run keeps what it has."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {"machine": about, "sections": [asdict(section) for section in sections]}
    as_json, as_text = folder / "results.json", folder / "results.md"
    as_json.write_text(json.dumps(described, indent=1, default=str))
    as_text.write_text("\n".join([machine.sentence(about) + "\n", *(markdown(section) for section in sections)]))
    return as_json, as_text


def record(case: str, result: Result, **more: Any) -> dict[str, Any]:
    """One method's figures, every call of them."""
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
        **more,
    }


def seconds(result: Result) -> str:
    """Median with smallest and largest; a call without a warm-up is marked."""
    if not result.turns:
        return "–"
    figures = sorted(result.seconds)
    middle = statistics.median(figures)
    if not result.warmed_up:
        return f"{number(middle)} (one cold call)"
    return f"{number(middle)} ({number(figures[0])}–{number(figures[-1])})"


def times(ratio: Spread | None) -> str:
    """A ratio with its spread."""
    if ratio is None:
        return "–"
    if ratio.low == ratio.high:
        return f"{number(ratio.median)}×"
    return f"{number(ratio.median)}× ({number(ratio.low)}–{number(ratio.high)})"


def percent(ratio: Spread | None) -> str:
    """A share with its spread."""
    if ratio is None:
        return "–"
    return f"{100 * ratio.median:.0f} % ({100 * ratio.low:.0f}–{100 * ratio.high:.0f})"


def megabytes(count: int | None) -> str:
    """Bytes as MB of 10⁶."""
    return "–" if count is None else f"{count / 1e6:,.0f}"


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def relative(value: float, truth: float | None) -> str:
    """How far a value is off, in parts of the truth."""
    if truth is None:
        return "other statistic"
    return f"{abs(value - truth) / abs(truth):.1e}"


def disturbance(results: Sequence[Result]) -> str:
    """How much of the machine others used while it measured."""
    shares = [float(turn.get("others", 0.0)) for result in results for turn in result.turns]
    if not shares:
        return "Nothing was measured."
    return f"Others used at most {100 * max(shares):.0f} % of the machine during a counted call."
