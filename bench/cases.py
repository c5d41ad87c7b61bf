"""What is measured: each case generates its samples, runs vfmalign and the competitors in turns, and fills tables."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from bench import datasets, methods, sections, tables
from bench.environments import VFMALIGN
from bench.measure import MeasurementSettings, Method, Result, compare, ratio
from bench.methods import PRECISIONS
from bench.tables import Section, Table, record

MeasureCase = Callable[[MeasurementSettings], Section]


def one_mmd(settings: MeasurementSettings, *, n: int = 10_000, d: int = 768, shift: float = 0.05) -> Section:
    """Measures one MMD² with a Gaussian kernel of fixed bandwidth, beside competitors and the bare matrix product."""
    sigma = math.sqrt(d)
    samples = datasets.shifted(n, d, shift)
    true = datasets.true_values(samples, sigma, direct=False)
    measured = [methods.vfmalign_mmd2(precision, sigma) for precision in PRECISIONS]
    measured += [methods.gemm(precision) for precision in PRECISIONS]
    measured += methods.select(methods.competitors_for_mmd2(sigma), settings)
    results = compare(measured, samples, settings)
    section = sections.value_section("one_mmd", f"One MMD², n = m = {n:,}, d = {d}, float32", results, true)
    section.sentences += sections.gemm_sentences(results)
    return section


def large(
    settings: MeasurementSettings, *, n: int = 30_000, d: int = 384, wider: int = 768, shift: float = 0.05
) -> Section:
    """Measures one MMD² at a size that most competitors cannot handle, and the memory of wider features.

    The competitors that can take minutes, so that they run with `--slow` only.
    """
    sigma = math.sqrt(d)
    samples = datasets.shifted(n, d, shift)
    true = datasets.true_values(samples, sigma, direct=False)
    capable = {"torch_plain", "torch_cdist", "alibi-detect", "geomloss", "scikit-learn"}
    competitors = [replace(one, slow=True) for one in methods.competitors_for_mmd2(sigma) if one.name in capable]
    measured = [methods.vfmalign_mmd2(precision, sigma) for precision in PRECISIONS]
    results = compare(measured + methods.select(competitors, settings), samples, settings)
    section = sections.value_section("large", f"One MMD², n = m = {n:,}, d = {d}, float32", results, true)
    one_call = replace(settings, repeats=0)
    (wide,) = compare([methods.vfmalign_mmd2("high", sigma)], datasets.shifted(n, wider, shift), one_call)
    section.sentences.append(
        f"At d = {wider} `{wide.method.name}` needs {tables.megabytes(wide.above_inputs_bytes)} MB above the inputs."
    )
    section.records.append(record(section.name, wide, channels=wider))
    return section


def permutations(
    settings: MeasurementSettings, *, n: int = 2_000, d: int = 768, count: int = 200, more: int = 1_000
) -> Section:
    """Measures a p-value by permutations."""
    sigma = math.sqrt(d)
    samples = datasets.shifted(n, d, 0.05)
    true = datasets.true_values(samples, sigma, direct=False)
    measured = [methods.vfmalign_test("high", sigma, count), methods.vfmalign_test("high", sigma, more)]
    measured += methods.select(methods.competitors_for_test(sigma, count), settings)
    results = compare(measured, samples, settings)
    first = results[0]
    title = f"A p-value, {count} permutations unless noted, n = m = {n:,}, d = {d}, float32"
    section = Section("permutations", title)
    columns = (
        "method",
        "seconds (min–max)",
        f"times `{first.method.name}`",
        "MB above inputs",
        "p",
        "relative error",
        "note",
    )
    rows = [
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
    ]
    section.tables.append(Table("", columns, rows))
    section.records += [record(section.name, one, truth=true.get(one.method.statistic)) for one in results]
    for one in results:
        if one.method.name in {"alibi-detect", "torchdrift"} and one.turns:
            section.sentences.append(f"{one.method.name} takes {tables.times(ratio(one, first))} as long as vfmalign.")
    section.sentences.append(tables.disturbance(results))
    return section


def permutations_cost(settings: MeasurementSettings, *, n: int = 10_000, d: int = 768, count: int = 1_000) -> Section:
    """Measures the cost of many permutations beside a single MMD²."""
    sigma = math.sqrt(d)
    measured = [methods.vfmalign_mmd2("high", sigma), methods.vfmalign_test("high", sigma, count)]
    competitors = [one for one in methods.competitors_for_test(sigma, count) if one.name == "torch_matrix"]
    measured += methods.select(competitors, settings)
    results = compare(measured, datasets.shifted(n, d, 0.05), settings)
    single, tested, *_ = results
    section = Section("permutations_cost", f"{count:,} permutations beside one MMD², n = m = {n:,}, d = {d}, float32")
    columns = ("method", "seconds (min–max)", "times the single MMD²", "MB above inputs", "note")
    rows = [
        (
            one.method.name,
            tables.seconds(one),
            tables.times(ratio(one, single)),
            tables.megabytes(one.above_inputs_bytes),
            one.failure or one.method.note,
        )
        for one in results
    ]
    section.tables.append(Table("", columns, rows))
    section.records += [record(section.name, one) for one in results]
    factor = tables.times(ratio(tested, single))
    section.sentences.append(f"A test with {count:,} permutations takes {factor} as long as the single MMD².")
    section.sentences.append(tables.disturbance(results))
    return section


def nearly_equal(settings: MeasurementSettings, *, n: int = 2_000, d: int = 768) -> Section:
    """Measures the accuracy for y = x + 1e-3 noise around a common offset, where differences cancel."""
    one_call, sigma = replace(settings, repeats=0), math.sqrt(d)
    section = Section("nearly_equal", f"Nearly equal samples: y = x + 1e-3 noise, n = m = {n:,}, d = {d}")
    section.sentences.append(
        "The true values come from direct differences and extended precision. The unbiased value for independent "
        "samples is almost entirely an artefact of pairing; the paired forms measure the actual difference."
    )
    columns = ("method", "statistic", "value", "truth", "relative error", "reported accuracy")
    for offset, dtype in ((10.0, "float32"), (10_000.0, "float64")):
        samples = datasets.nearly_equal(n, d, offset, dtype)
        true = datasets.true_values(samples, sigma, direct=True)
        measured = [
            _with_accuracy(precision, sigma, statistic) for statistic in datasets.STATISTICS for precision in PRECISIONS
        ]
        competitors = [one for one in methods.competitors_for_mmd2(sigma) if one.statistic in true]
        results = compare(measured + methods.select(competitors, settings), samples, one_call)
        rows = [
            (
                one.method.name,
                one.method.statistic,
                f"{one.last['value']:.9e}" if one.turns else "–",
                f"{true[one.method.statistic]:.9e}",
                tables.relative(one.last["value"], true[one.method.statistic]) if one.turns else "–",
                one.failure or _reported_accuracy(one),
            )
            for one in results
        ]
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


def accuracy(settings: MeasurementSettings, *, grid: Sequence[tuple[int, int, float]] = ACCURACY_GRID) -> Section:
    """Measures the errors of each precision against float64."""
    one_call = replace(settings, repeats=0)
    section = Section("accuracy", "Errors against float64, Gaussian kernel, σ = √d, unbiased for independent samples")
    rows = []
    for n, d, shift in grid:
        sigma, samples = math.sqrt(d), datasets.shifted(n, d, shift)
        true = datasets.true_values(samples, sigma, direct=False)["unbiased_independent"]
        measured = [_with_accuracy(precision, sigma, "unbiased_independent") for precision in PRECISIONS]
        for one in compare(measured, samples, one_call):
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
                    one.failure or _reported_accuracy(one),
                )
            )
    columns = (
        "n = m",
        "d",
        "shift",
        "MMD² in float64",
        "method",
        "absolute error",
        "relative error",
        "reported accuracy",
    )
    section.tables.append(Table("", columns, rows))
    return section


CASES: dict[str, MeasureCase] = {
    "one_mmd": one_mmd,
    "large": large,
    "permutations": permutations,
    "permutations_cost": permutations_cost,
    "nearly_equal": nearly_equal,
    "accuracy": accuracy,
}
CASE_MODULES = {
    "stream": "bench.stream",
    "endpoint": "bench.endpoint.measurements",
    "load": "bench.endpoint.load",
    "shares": "bench.endpoint.shares",
    "dicom": "bench.dicom_import",
    "dicom_extract": "bench.dicom_extract",
    "observe": "bench.observe",
    "extract_observed": "bench.extract_observed",
}
"""Modules with a function `run(settings)`, imported late because they need more than the other cases."""


def available() -> dict[str, MeasureCase]:
    """Returns every case by name."""
    return CASES | {name: importlib.import_module(module).run for name, module in CASE_MODULES.items()}


def _with_accuracy(precision: str, sigma: float, statistic: str) -> Method:
    """Returns vfmalign's MMD² together with the accuracy that it reports."""
    pairing = "independent" if statistic == "unbiased_independent" else "paired"
    options = {"pairing": pairing, "sigma": sigma, "precision": precision, "estimator": statistic, "permutations": 0}
    return Method(
        f"vfmalign {precision}", VFMALIGN, "workloads.vfmalign_mmd", "test", arguments=options, statistic=statistic
    )


def _reported_accuracy(result: Result) -> str:
    """Returns precision and error bound, where the method reports them."""
    if "error_bound" not in result.last:
        return result.method.note
    caution = "; below error bound" if result.last["below_error_bound"] else ""
    return f"{result.last['precision']}, bound {result.last['error_bound']:.1e}{caution}"
