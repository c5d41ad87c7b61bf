"""Summaries of results: the table of one MMD², and sentences that compare vfmalign with competitors and limits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench import tables
from bench.measure import Result, median_range, ratio
from bench.methods import GEMM_DTYPES, PRECISIONS
from bench.tables import Section, Table, record
from vfmalign.mmd.engine import precision


def value_section(
    name: str, title: str, results: Sequence[Result], true: dict[str, float], *, device: str = "cpu"
) -> Section:
    """Returns the section of one MMD².

    Args:
        name: of the case.
        title: heading of the section.
        results: of vfmalign at every precision, and of any other methods.
        true: the value in float64 by statistic.
        device: type of the device that computed.
    """
    by_name = {one.method.name: one for one in results}
    high = by_name["vfmalign high"]
    section = Section(name, title)
    columns = ("method", "seconds (min–max)", "times `vfmalign high`", "MB above inputs", "relative error", "note")
    rows = [_gemm_row(one) if one.method.statistic == "none" else _value_row(one, high, true) for one in results]
    section.tables.append(Table("", columns, rows))
    section.records += [record(name, one, truth=true.get(one.method.statistic)) for one in results]
    section.sentences.append(
        f"MMD² in float64: {true['unbiased_independent']:.9e} (unbiased), {true['biased']:.9e} (biased)."
    )
    exact = [one for one in results if not one.method.name.startswith("vfmalign") and one.method.statistic in true]
    fastest = min(
        (one for one in exact if one.turns), key=lambda one: sorted(one.seconds)[len(one.seconds) // 2], default=None
    )
    if fastest is not None and high.turns:
        factor = tables.times(ratio(fastest, high))
        section.sentences.append(f"The fastest exact competitor, {fastest.method.name}, takes {factor} as long.")
    fast = by_name["vfmalign fast"]
    if fast.turns and high.turns:
        section.sentences.append(
            f"Speed of `vfmalign fast` relative to `vfmalign high`: {tables.times(ratio(high, fast))}. "
            f"{fast_precision_sentence(device)}"
        )
    section.sentences.append(tables.disturbance(results))
    return section


def fast_precision_sentence(device: str) -> str:
    """Says which precision `fast` means on a device, as the engine itself chooses it for large samples."""
    chosen = precision.choose("fast", 10**6, 1024, torch.device(device))
    if chosen == "float32":
        return "On a CPU `fast` computes in float32, as `high` does."
    return f"On this device `fast` rounds rows to {chosen}."


def gemm_sentences(results: Sequence[Result]) -> list[str]:
    """Says which share of the bare matrix product's speed each precision reaches, turn by turn."""
    by_name = {one.method.name: one for one in results}
    sentences = []
    for level in PRECISIONS:
        engine, limit = by_name[f"vfmalign {level}"], by_name[f"bare GEMM, {GEMM_DTYPES[level]}"]
        if not engine.turns or len(engine.turns) != len(limit.turns):
            continue
        shares = [float(turn["value"]) / seconds for turn, seconds in zip(limit.turns, engine.seconds, strict=True)]
        sentences.append(
            f"`{engine.method.name}` reaches {tables.percent(median_range(shares))} of the speed of a bare "
            f"{GEMM_DTYPES[level]} matrix product that skips the lower halves of XX and YY (2·n²·2d FLOP, timed in one "
            f"go with the fastest library here: {limit.last['by']})."
        )
    return sentences


def _value_row(result: Result, high: Result, true: dict[str, float]) -> tuple[str, ...]:
    """Returns the line of a method that computes MMD²."""
    return (
        result.method.name,
        tables.seconds(result),
        tables.times(ratio(result, high)),
        tables.megabytes(result.above_inputs_bytes),
        tables.relative(result.last["value"], true.get(result.method.statistic)) if result.turns else "–",
        result.failure or result.method.note,
    )


def _gemm_row(result: Result) -> tuple[str, ...]:
    """Returns the line of a bare product: the time that its throughput implies for the whole work."""
    if not result.turns:
        return (result.method.name, "–", "–", "–", "–", result.failure)
    seconds = median_range([float(turn["value"]) for turn in result.turns])
    throughput = median_range([float(turn["gflops"]) for turn in result.turns])
    time = f"{tables.with_range(seconds)} at {throughput.median:,.0f} GFLOP/s"
    return (result.method.name, time, "–", "–", "–", result.failure or str(result.last["by"]))
