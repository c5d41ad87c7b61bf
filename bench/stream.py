"""Rows that are not in memory: random Fourier features of seeded noise.

The streams are N(0, 1) noise and the same noise with a shift, whose population MMD² is known in closed form. They are
drawn when they are read and never stored. Legend: n rows of each sample, d channels.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench import tables
from bench.environments import VFMALIGN
from bench.measure import MeasurementSettings, Method, Result, compare
from bench.statistics.simulations import Population
from bench.tables import Section, Table, record

CHANNELS = 768
SHIFT = 0.05
SIGMA = math.sqrt(CHANNELS)
PERMUTATIONS = 1_000
LONG_CALL_S = 2 * 3600.0
Z_95 = 1.96


@dataclass(frozen=True)
class StreamSizes:
    """Row counts to measure.

    Attributes:
        repeated: of streams that are measured in several turns.
        once: of streams that are measured in one call.
        slow: of streams that are measured with `--slow` only.
    """

    repeated: Sequence[int] = (10_000, 100_000)
    once: Sequence[int] = (1_000_000,)
    slow: Sequence[int] = (10_000_000,)


def run(settings: MeasurementSettings, sizes: StreamSizes = StreamSizes()) -> Section:
    """Measures streams."""
    section = Section("stream", f"Rows that are not in memory, d = {CHANNELS}, float32")
    section.sentences.append(tables.disturbance(_streams(section, settings, sizes)))
    return section


def _streams(section: Section, settings: MeasurementSettings, sizes: StreamSizes) -> list[Result]:
    """Measures random Fourier features at growing sizes."""
    one_call = replace(settings, repeats=0, call_limit_s=max(settings.call_limit_s, LONG_CALL_S))
    results = compare([one for rows in sizes.repeated for one in _methods(rows)], (), settings)
    results += compare([one for rows in sizes.once for one in _methods(rows)], (), one_call)
    results += compare([replace(one, slow=True) for rows in sizes.slow for one in _methods(rows)[:1]], (), one_call)
    truth = Population(0, 0, CHANNELS, shift=SHIFT * math.sqrt(CHANNELS)).mmd2(SIGMA)
    columns = (
        "method",
        "seconds (min–max)",
        "rows per second",
        "MB above the start",
        "MMD²",
        "± approximation (99 %)",
        "deviation from the population's, in standard errors",
        "note",
    )
    title = f"Seeded noise against its copy shifted by {SHIFT:g} in every channel, σ = √d, nothing stored"
    section.tables.append(Table(title, columns, [_stream_row(one, truth) for one in results]))
    section.sentences.append(
        f"The population's MMD² in closed form is {truth:.9e}. Rows per second count both samples. Standard errors "
        "include the randomness of the rows and of the frequencies."
    )
    section.sentences += _growth([one for one in results if one.method.function == "fourier_features"])
    section.records += [record(section.name, one, population=truth) for one in results]
    return results


def _methods(rows: int) -> list[Method]:
    """Returns the methods for streams of `rows` rows per sample."""
    size = f"n = m = {rows:,}"
    streams = {"rows": rows, "channels": CHANNELS, "shift": SHIFT}
    options = streams | {"sigma": SIGMA}

    def method(name: str, function: str, arguments: dict[str, Any], note: str) -> Method:
        return Method(f"{name}, {size}", VFMALIGN, "workloads.streaming", function, arguments=arguments, note=note)

    return [
        method(
            "fourier",
            "fourier_features",
            options | {"permutations": PERMUTATIONS},
            f"1,024 frequencies; with {PERMUTATIONS:,} permutations and interval",
        ),
        method("drawing alone", "drawing", streams, "the noise without an estimator"),
    ]


def _stream_row(one: Result, truth: float) -> tuple[str, ...]:
    """Returns the line of one method."""
    if not one.turns:
        return (one.method.name, "–", "–", "–", "–", "–", "–", one.failure)
    rate = 2.0 * one.method.arguments["rows"] / statistics.median(one.seconds)
    figures = one.method.name, tables.seconds(one), f"{rate:,.0f}", tables.megabytes(one.above_inputs_bytes)
    last = one.last
    if "lower" not in last:
        return (*figures, "–", "–", "–", one.method.note)
    standard_error = (last["upper"] - last["lower"]) / (2.0 * Z_95)
    deviation = f"{abs(last['value'] - truth) / standard_error:.2f}" if standard_error > 0 else "–"
    return (*figures, f"{last['value']:.9e}", f"{last['approximation_error']:.1e}", deviation, one.method.note)


def _growth(results: Sequence[Result]) -> list[str]:
    """Says how memory and time grow from the smallest to the largest stream."""
    measured = [one for one in results if one.turns]
    if len(measured) < 2:
        return []
    first, last = measured[0], measured[-1]
    growth = last.method.arguments["rows"] / first.method.arguments["rows"]
    peaks = [tables.megabytes(one.above_inputs_bytes) for one in (first, last)]
    slowdown = statistics.median(last.seconds) / statistics.median(first.seconds)
    return [
        f"From {first.method.arguments['rows']:,} to {last.method.arguments['rows']:,} rows ({growth:,.0f}×) the peak "
        f"of `fourier` goes from {peaks[0]} to {peaks[1]} MB above the start, and its time grows {slowdown:,.0f}×."
    ]
