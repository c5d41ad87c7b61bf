"""What the figures of a case say: the table of one MMD², and sentences that set ours against peers and limits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench import tables
from bench.measure import Result, ratio, spread
from bench.methods import GEMM_OF, PRECISIONS
from bench.tables import Section, Table, record
from vfmalign.mmd.engine import precision


def value_section(
    name: str, title: str, results: Sequence[Result], true: dict[str, float], *, device: str = "cpu"
) -> Section:
    """The table of one MMD²."""
    by_name = {one.method.name: one for one in results}
    high = by_name["vfmalign high"]
    section = Section(name, title)
    section.tables.append(
        Table(
            "",
            ("method", "seconds (min–max)", "times `vfmalign high`", "MB above inputs", "relative error", "note"),
            [
                (
                    one.method.name,
                    tables.seconds(one) if one.method.statistic != "none" else _limit_seconds(one),
                    tables.times(ratio(one, high)) if one.method.statistic != "none" else "–",
                    tables.megabytes(one.above_inputs_bytes) if one.method.statistic != "none" else "–",
                    tables.relative(one.last["value"], true.get(one.method.statistic))
                    if one.turns and one.method.statistic != "none"
                    else "–",
                    one.failure or str(one.last.get("by", one.method.note)),
                )
                for one in results
            ],
        )
    )
    section.records += [record(name, one, truth=true.get(one.method.statistic)) for one in results]
    section.sentences.append(
        f"MMD² in float64: {true['unbiased_independent']:.9e} (unbiased), {true['biased']:.9e} (biased)."
    )
    peers = [one for one in results if not one.method.name.startswith("vfmalign") and one.method.statistic in true]
    fastest = min(
        (one for one in peers if one.turns), key=lambda one: sorted(one.seconds)[len(one.seconds) // 2], default=None
    )
    if fastest is not None and high.turns:
        factor = tables.times(ratio(fastest, high))
        section.sentences.append(f"`vfmalign high` against the fastest exact peer, {fastest.method.name}: {factor}.")
    fast = by_name["vfmalign fast"]
    if fast.turns and high.turns:
        section.sentences.append(
            f"`vfmalign fast` against `vfmalign high`: {tables.times(ratio(high, fast))}. {units_sentence(device)}"
        )
    section.sentences.append(tables.disturbance(results))
    return section


def units_sentence(device: str) -> str:
    """Which precision `fast` takes, as the engine itself chooses it for large samples."""
    chosen = precision.choose("fast", 10**6, 1024, torch.device(device))
    if chosen == "float32":
        return "On a CPU `fast` computes in float32 as `high` does: no factor is asked of it."
    return f"On this device `fast` rounds rows to {chosen}."


def _limit_seconds(result: Result) -> str:
    """What the bare product would take, and its throughput."""
    if not result.turns:
        return "–"
    figures = spread([float(turn["value"]) for turn in result.turns])
    throughput = spread([float(turn["gflops"]) for turn in result.turns])
    return (
        f"{tables.number(figures.median)} ({tables.number(figures.low)}–{tables.number(figures.high)}) "
        f"at {throughput.median:,.0f} GFLOP/s"
    )


def gemm_sentences(results: Sequence[Result]) -> list[str]:
    """Our share of the bare product's limit, turn by turn."""
    by_name = {one.method.name: one for one in results}
    sentences = []
    for level in PRECISIONS:
        own, limit = by_name[f"vfmalign {level}"], by_name[f"bare GEMM, {GEMM_OF[level]}"]
        if not own.turns or len(own.turns) != len(limit.turns):
            continue
        shares = [float(turn["value"]) / seconds for turn, seconds in zip(limit.turns, own.seconds, strict=True)]
        sentences.append(
            f"`{own.method.name}` reaches {tables.percent(spread(shares))} of the limit of a bare {GEMM_OF[level]} "
            "matrix product with the halves of XX and YY skipped (2·n²·2d FLOP, timed in one go with the fastest "
            f"library here: {limit.last['by']})."
        )
    return sentences
