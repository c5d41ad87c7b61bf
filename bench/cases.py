"""What is measured: each case makes its inputs, runs ours and the peers in turns, and has its tables drawn."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from bench import inputs, methods, sections, tables, truth
from bench.environments import OURS
from bench.measure import Method, Result, Settings, compare, ratio
from bench.methods import PRECISIONS
from bench.tables import Section, Table, record

Case = Callable[[Settings], Section]


def one_mmd(settings: Settings, *, n: int = 10_000, d: int = 768, shift: float = 0.05) -> Section:
    """One MMD² with a Gaussian kernel of fixed bandwidth, beside the peers and the bare matrix product."""
    sigma = math.sqrt(d)
    samples = inputs.shifted(n, d, shift)
    true = truth.values(samples, sigma, direct=False)
    wanted = [methods.ours(precision, sigma) for precision in PRECISIONS]
    wanted += [methods.gemm(precision) for precision in PRECISIONS]
    wanted += methods.taken(methods.values(sigma), settings)
    results = compare(wanted, samples, settings)
    section = sections.value_section("one_mmd", f"One MMD², n = m = {n:,}, d = {d}, float32", results, true)
    section.sentences += sections.gemm_sentences(results)
    return section


def large(settings: Settings, *, n: int = 30_000, d: int = 384, wider: int = 768, shift: float = 0.05) -> Section:
    """The same where most peers end; they are slow and left out unless asked for. And the memory in more channels."""
    sigma = math.sqrt(d)
    samples = inputs.shifted(n, d, shift)
    true = truth.values(samples, sigma, direct=False)
    survivors = {"torch_plain", "torch_cdist", "alibi-detect", "geomloss", "scikit-learn"}
    peers = [replace(one, slow=True) for one in methods.values(sigma) if one.name in survivors]
    wanted = [methods.ours(precision, sigma) for precision in PRECISIONS] + methods.taken(peers, settings)
    results = compare(wanted, samples, settings)
    section = sections.value_section("large", f"One MMD², n = m = {n:,}, d = {d}, float32", results, true)
    (wide,) = compare([methods.ours("high", sigma)], inputs.shifted(n, wider, shift), replace(settings, repeats=0))
    section.sentences.append(
        f"At d = {wider} `{wide.method.name}` needs {tables.megabytes(wide.above_inputs_bytes)} MB above the inputs."
    )
    section.records.append(record(section.name, wide, channels=wider))
    return section


def permutations(settings: Settings, *, n: int = 2_000, d: int = 768, count: int = 200, more: int = 1_000) -> Section:
    """A p-value by permutations."""
    sigma = math.sqrt(d)
    samples = inputs.shifted(n, d, 0.05)
    true = truth.values(samples, sigma, direct=False)
    wanted = [methods.ours_tested("high", sigma, count), methods.ours_tested("high", sigma, more)]
    results = compare(wanted + methods.taken(methods.tests(sigma, count), settings), samples, settings)
    first = results[0]
    section = Section("permutations", f"A p-value, {count} permutations unless said, n = m = {n:,}, d = {d}, float32")
    section.tables.append(
        Table(
            "",
            (
                "method",
                "seconds (min–max)",
                f"times `{first.method.name}`",
                "MB above inputs",
                "p",
                "relative error",
                "note",
            ),
            [
                (
                    one.method.name,
                    tables.seconds(one),
                    tables.times(ratio(one, first)),
                    tables.megabytes(one.above_inputs_bytes),
                    f"{one.last['p']:.3g}" if one.turns and one.last.get("p") is not None else "–",
                    tables.relative(one.last["value"], true.get(one.method.statistic)) if one.turns else "–",
                    one.failure or one.method.note,
                )
                for one in results
            ],
        )
    )
    section.records += [record(section.name, one, truth=true.get(one.method.statistic)) for one in results]
    for one in results:
        if one.method.name in {"alibi-detect", "torchdrift"} and one.turns:
            section.sentences.append(f"{one.method.name} takes {tables.times(ratio(one, first))} as long as ours.")
    section.sentences.append(tables.disturbance(results))
    return section


def permutations_cost(settings: Settings, *, n: int = 10_000, d: int = 768, count: int = 1_000) -> Section:
    """What many permutations cost beside the single MMD²."""
    sigma = math.sqrt(d)
    wanted = [methods.ours("high", sigma), methods.ours_tested("high", sigma, count)]
    peers = [one for one in methods.tests(sigma, count) if one.name == "torch_matrix"]
    results = compare(wanted + methods.taken(peers, settings), inputs.shifted(n, d, 0.05), settings)
    single, *_ = results
    section = Section("permutations_cost", f"{count:,} permutations beside one MMD², n = m = {n:,}, d = {d}, float32")
    section.tables.append(
        Table(
            "",
            ("method", "seconds (min–max)", "times the single MMD²", "MB above inputs", "note"),
            [
                (
                    one.method.name,
                    tables.seconds(one),
                    tables.times(ratio(one, single)),
                    tables.megabytes(one.above_inputs_bytes),
                    one.failure or one.method.note,
                )
                for one in results
            ],
        )
    )
    section.records += [record(section.name, one) for one in results]
    section.sentences.append(f"{count:,} permutations take {tables.times(ratio(results[1], single))} the single MMD².")
    section.sentences.append(tables.disturbance(results))
    return section


def nearly_equal(settings: Settings, *, n: int = 2_000, d: int = 768) -> Section:
    """Y = x + 1e-3 noise around a common offset: what is left of the value."""
    once, sigma = replace(settings, repeats=0), math.sqrt(d)
    section = Section("nearly_equal", f"Nearly equal sets: y = x + 1e-3 noise, n = m = {n:,}, d = {d}")
    section.sentences.append(
        "Absolute truth is computed from direct differences and extended precision. The unbiased value for independent "
        "samples is nearly all artefact of pairing; the paired forms hold what there is to measure."
    )
    for offset, dtype in ((10.0, "float32"), (10_000.0, "float64")):
        samples = inputs.nearly_equal(n, d, offset, dtype)
        true = truth.values(samples, sigma, direct=True)
        wanted = [
            _ours_nearly(precision, sigma, statistic) for statistic in truth.STATISTICS for precision in PRECISIONS
        ]
        peers = [one for one in methods.values(sigma) if one.statistic in true]
        results = compare(wanted + methods.taken(peers, settings), samples, once)
        rows = [
            (
                one.method.name,
                one.method.statistic,
                f"{one.last['value']:.9e}" if one.turns else "–",
                f"{true[one.method.statistic]:.9e}",
                tables.relative(one.last["value"], true[one.method.statistic]) if one.turns else "–",
                one.failure or _own_words(one),
            )
            for one in results
        ]
        columns = ("method", "statistic", "value", "truth", "relative error", "what it says")
        section.tables.append(Table(f"Offset {offset:g}, {dtype}", columns, rows))
        section.records += [
            record(section.name, one, truth=true[one.method.statistic], offset=offset, dtype=dtype) for one in results
        ]
    return section


ACCURACY_GRID = (
    (500, 64, 0.2),
    (1_000, 2_048, 0.1),
    (2_000, 768, 0.0),
    (2_000, 768, 0.05),
    (2_000, 768, 0.3),
    (5_000, 256, 0.1),
)


def accuracy(settings: Settings, *, grid: Sequence[tuple[int, int, float]] = ACCURACY_GRID) -> Section:
    """Errors of each precision against float64."""
    once = replace(settings, repeats=0)
    section = Section("accuracy", "Errors against float64, Gaussian kernel, σ = √d, unbiased for independent samples")
    rows = []
    for n, d, shift in grid:
        sigma, samples = math.sqrt(d), inputs.shifted(n, d, shift)
        true = truth.values(samples, sigma, direct=False)["unbiased_independent"]
        results = compare([_ours_nearly(one, sigma, "unbiased_independent") for one in PRECISIONS], samples, once)
        for one in results:
            section.records.append(record(section.name, one, truth=true, n=n, d=d, shift=shift))
            value = one.last["value"] if one.turns else math.nan
            rows.append(
                (
                    f"{n:,}",
                    f"{d:,}",
                    f"{shift:g}",
                    f"{true:.6e}",
                    one.method.name,
                    f"{abs(value - true):.1e}",
                    tables.relative(value, true),
                    one.failure or _own_words(one),
                )
            )
    columns = ("n = m", "d", "shift", "MMD² in float64", "method", "absolute error", "relative error", "what it says")
    section.tables.append(Table("", columns, rows))
    return section


CASES: dict[str, Case] = {
    "one_mmd": one_mmd,
    "large": large,
    "permutations": permutations,
    "permutations_cost": permutations_cost,
    "nearly_equal": nearly_equal,
    "accuracy": accuracy,
}
BESIDE = ("stream", "endpoint")


def available() -> dict[str, Case]:
    """Every case, with those that have a module of their own."""
    found = dict(CASES)
    for name in BESIDE:
        if importlib.util.find_spec(f"bench.{name}") is not None:
            case: Case = importlib.import_module(f"bench.{name}").run
            found[name] = case
    return found


def _ours_nearly(precision: str, sigma: float, statistic: str) -> Method:
    """Ours with what it says of its accuracy."""
    pairing = "independent" if statistic == "unbiased_independent" else "paired"
    options = {"pairing": pairing, "sigma": sigma, "precision": precision, "estimator": statistic, "permutations": 0}
    return Method(f"vfmalign {precision}", OURS, "ours", "tested", arguments=options, statistic=statistic)


def _own_words(result: Result) -> str:
    """Precision and error bound, where the method gives them."""
    if "error_bound" not in result.last:
        return result.method.note
    lost = "; digits lost" if result.last["below_error_bound"] else ""
    return f"{result.last['precision']}, bound {result.last['error_bound']:.1e}{lost}"
