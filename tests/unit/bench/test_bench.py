"""What the benchmark publishes is right: values, medians, ratios and the sentences about them."""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any

import bench
import numpy as np
import pytest
import torch
from bench import datasets, environments, machine, measure, methods, process, sections, tables
from bench.measure import MeasurementSettings, Method, Result
from bench.workloads import gemm_limit

SIGMA = 4.0
QUICK = MeasurementSettings(repeats=2, threads=1, retries=0)


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for module in (environments, datasets, process):
        monkeypatch.setattr(module, "HOME", tmp_path)
    return tmp_path


def result(name: str, seconds: list[float], *, statistic: str = "unbiased_independent", **answer: Any) -> Result:
    turns = [{"seconds": one, "above_inputs_bytes": 10**6, "others": 0.0, "value": 0.5} | answer for one in seconds]
    return Result(Method(name, "vfmalign", "workloads.vfmalign_mmd", "value", statistic=statistic), turns)


def test_vfmalign_and_the_textbook_formula_agree_with_the_true_value() -> None:
    samples = datasets.shifted(200, 16, 0.2)
    true = datasets.true_values(samples, SIGMA, direct=False)["unbiased_independent"]
    plain = next(one for one in methods.competitors_for_mmd2(SIGMA) if one.name == "torch_plain")
    engine, formula = measure.compare([methods.vfmalign_mmd2("exact", SIGMA), plain], samples, QUICK)
    assert not engine.failure
    assert not formula.failure
    assert [len(one.turns) for one in (engine, formula)] == [2, 2]
    assert engine.last["value"] == pytest.approx(true, rel=1e-10)
    assert formula.last["value"] == pytest.approx(true, rel=1e-2)
    assert engine.above_inputs_bytes is not None
    assert 0 < engine.above_inputs_bytes < 500e6


def test_median_and_ratios_turn_by_turn() -> None:
    fast, slow = result("fast", [1.0, 2.0, 4.0]), result("slow", [3.0, 10.0, 8.0])
    assert measure.median_range(slow.seconds) == measure.MedianRange(8.0, 3.0, 10.0)
    assert measure.ratio(slow, fast) == measure.MedianRange(3.0, 2.0, 5.0)
    once = result("once", [20.0])
    assert measure.ratio(once, fast) == measure.MedianRange(10.0, 10.0, 10.0)
    assert measure.ratio(result("none", []), fast) is None
    assert tables.seconds(slow) == "8 (3–10)"
    once.warmed_up = False
    assert tables.seconds(once) == "20 (one cold call)"


def test_the_true_value_is_the_textbook_value(home: Path) -> None:
    samples = datasets.nearly_equal(40, 8, 3.0, "float64")
    x, y = (np.load(path) for path in samples)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / (2 * SIGMA**2))

    xx, yy, xy, off = kernel(x, x), kernel(y, y), kernel(x, y), ~np.eye(40, dtype=bool)
    h = xx + yy - xy - xy.T
    expected = {
        "biased": h.mean(),
        "unbiased_independent": xx[off].mean() + yy[off].mean() - 2 * xy.mean(),
        "unbiased_paired": h[off].mean(),
    }
    for direct in (True, False):
        assert datasets.true_values(samples, SIGMA, direct=direct) == pytest.approx(expected, abs=1e-13)
        for stored in (home / "inputs").glob("*.json"):
            stored.unlink()


def test_the_table_of_one_mmd_draws_the_right_conclusions(home: Path) -> None:
    true = {"biased": 0.6, "unbiased_independent": 0.5}
    results = [
        result(f"vfmalign {one}", [seconds] * 3) for one, seconds in (("fast", 1.0), ("high", 2.0), ("exact", 4.0))
    ]
    results += [
        result(f"bare GEMM, {dtype}", [0.1] * 3, statistic="none", value=1.5, gflops=100.0, by="one library")
        for dtype in methods.GEMM_DTYPES.values()
    ]
    results += [
        result("slower", [9.0] * 3),
        result("faster", [5.0, 6.0, 8.0]),
        result("another", [3.0] * 3, statistic="other"),
    ]
    section = sections.value_section("one", "One", results, true)
    section.sentences += sections.gemm_sentences(results)
    text = tables.to_markdown(section)
    assert "The fastest exact competitor, faster, takes 3× (2.5–4) as long." in text
    assert "Speed of `vfmalign fast` relative to `vfmalign high`: 2×" in text
    assert "`vfmalign high` reaches 75 % (75–75)" in text
    assert "timed in one go with the fastest library here: one library)" in text
    assert "| bare GEMM, float32 | 1.5 (1.5–1.5) at 100 GFLOP/s | – | – | – | one library |" in text
    assert "| slower | 9 (9–9) | 4.5× | 1 | 0.0e+00 |  |" in text
    assert "| another | 3 (3–3) | 1.5× | 1 | other statistic |  |" in text

    about = machine.describe(2)
    json_path, markdown_path = tables.write(home / "results", about, [section])
    assert json.loads(json_path.read_text())["sections"][0]["records"][0]["turns"][0]["seconds"] == 1.0
    assert f"torch {torch.__version__}" in markdown_path.read_text()


def test_the_limit_is_the_whole_product_by_the_fastest_library(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []

    def product(per_flop: float) -> gemm_limit.Product:
        """Takes twice as long in tiles of other than 512 rows."""

        def multiply(a: torch.Tensor, _: torch.Tensor, out: torch.Tensor) -> None:
            calls.append((per_flop, out.numel()))
            clock[0] += per_flop * 2.0 * out.numel() * a.shape[1] * (1.0 if len(a) == 512 else 2.0)

        return multiply

    monkeypatch.setattr(gemm_limit, "_FASTEST", {})
    monkeypatch.setattr(gemm_limit, "_products", lambda _: {"torch.mm": product(4e-9), "numpy": product(1e-9)})
    monkeypatch.setattr(gemm_limit.time, "perf_counter", lambda: clock[0])
    x = np.zeros((1000, 8), dtype=np.float32)
    first = gemm_limit.gemm(x, x, dtype="float32")
    assert first["value"] == pytest.approx(2000.0**2 * 8 * 1e-9)
    assert (first["gflops"], first["by"]) == (pytest.approx(1.0), "numpy, tiles of 512 × 512")
    calls.clear()
    assert gemm_limit.gemm(x, x, dtype="float32") == {**first, "value": pytest.approx(first["value"])}
    assert calls == [(1e-9, 512 * 512)] * 8, "(2·1000)²/(2·512²), rounded up: nothing is tried again"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_library_gives_the_product(dtype: torch.dtype) -> None:
    a, b = (torch.arange(48.0).remainder(7).view(6, 8).to(dtype) for _ in range(2))
    expected = a.double() @ b.T.double()
    for product in gemm_limit._products(dtype).values():
        out = torch.empty(6, 6, dtype=dtype)
        product(a, b.T, out)
        assert torch.equal(out.double(), expected.to(dtype).double())
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16"


def test_every_module_can_be_imported() -> None:
    """The competitors have environments of their own."""
    names = [one.name for one in pkgutil.walk_packages(bench.__path__, "bench.")]
    for name in names:
        if not name.startswith("bench.competitors.") and not name.endswith(".__main__"):
            importlib.import_module(name)
    assert "bench.statistics.families" in names
