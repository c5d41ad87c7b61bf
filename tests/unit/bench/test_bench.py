"""The benchmark's harness: values agree, what fails is said, medians and ratios are right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench import environments, forward, gpu, inputs, machine, measure, methods, sections, tables, truth
from bench.measure import CallFailed, Method, Process, Result, Settings
from bench.peers import limit

SIGMA = 4.0
QUICK = Settings(repeats=2, threads=1, retries=0)


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for module in (environments, inputs, measure):
        monkeypatch.setattr(module, "HOME", tmp_path)
    return tmp_path


def result(name: str, seconds: list[float], *, statistic: str = "unbiased_independent", **answer: Any) -> Result:
    turns = [{"seconds": one, "above_inputs_bytes": 10**6, "others": 0.0, "value": 0.5} | answer for one in seconds]
    return Result(Method(name, "ours", "ours", "value", statistic=statistic), turns)


def test_ours_and_the_textbook_formula_agree_with_the_truth() -> None:
    samples = inputs.shifted(200, 16, 0.2)
    true = truth.values(samples, SIGMA, direct=False)["unbiased_independent"]
    plain = next(one for one in methods.values(SIGMA) if one.name == "torch_plain")
    wanted = [methods.ours("exact", SIGMA), plain]
    ours, theirs = measure.compare(wanted, samples, QUICK)
    assert not ours.failure
    assert not theirs.failure
    assert [len(one.turns) for one in (ours, theirs)] == [2, 2]
    assert ours.last["value"] == pytest.approx(true, rel=1e-10)
    assert theirs.last["value"] == pytest.approx(true, rel=1e-2)
    assert ours.above_inputs_bytes is not None
    assert 0 < ours.above_inputs_bytes < 500e6


def test_what_fails_is_said_and_the_others_go_on() -> None:
    samples = inputs.shifted(20, 4, 0.0)
    wanted = [
        Method("no such function", "ours", "limit", "nothing"),
        Method("fails", "ours", "limit", "gemm", arguments={"dtype": "float33"}),
        Method("slow one", "ours", "limit", "gemm", slow=True),
        Method("elsewhere", "torch", "keops", "value", "pykeops"),
        Method("torch-two-sample", "torch", "absent", "absent", "torch-two-sample"),
        Method("works", "ours", "limit", "gemm", arguments={"dtype": "float32"}, statistic="none"),
    ]
    results = measure.compare(wanted, samples, Settings(repeats=1, threads=1, retries=0))
    reasons = [one.failure for one in results]
    assert "AttributeError" in reasons[0]
    assert "float33" in reasons[1]
    assert reasons[2:] == [
        "slow: run with --slow",
        "not installed: run `make bench-peers`",
        environments.NOT_ON_PYPI["torch-two-sample"],
        "",
    ]
    assert [len(one.turns) for one in results] == [0, 0, 0, 0, 0, 1]


def test_a_call_that_takes_too_long_is_ended() -> None:
    samples = inputs.shifted(20, 4, 0.0)
    method = Method("slow", "ours", "limit", "gemm", arguments={"dtype": "float32"})
    process = Process(method, samples, QUICK)
    with pytest.raises(CallFailed, match=r"no answer within 0\.01 s"):
        process.call(0.01)
    process.close()
    assert process._child.returncode is not None


def test_median_and_ratios_turn_by_turn() -> None:
    ours, theirs = result("ours", [1.0, 2.0, 4.0]), result("theirs", [3.0, 10.0, 8.0])
    assert measure.spread(theirs.seconds) == measure.Spread(8.0, 3.0, 10.0)
    assert measure.ratio(theirs, ours) == measure.Spread(3.0, 2.0, 5.0)
    once = result("once", [20.0])
    assert measure.ratio(once, ours) == measure.Spread(10.0, 10.0, 10.0)
    assert measure.ratio(result("none", []), ours) is None
    assert tables.seconds(theirs) == "8 (3–10)"
    once.warmed_up = False
    assert tables.seconds(once) == "20 (one cold call)"


def test_a_disturbed_call_is_repeated_and_the_last_one_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = iter([0.0, 9.0, 9.0, 10.0])
    monkeypatch.setattr(machine, "busy_seconds", lambda: next(busy))
    monkeypatch.setattr(measure.os, "cpu_count", lambda: 2)

    class Calls:
        made = 0

        def call(self, limit_s: float) -> dict[str, Any]:
            self.made += 1
            return {"seconds": 2.0, "cpu_seconds": 1.0}

    calls, one = Calls(), result("one", [])
    measure._add_turn(one, calls, Settings(retries=5))
    assert calls.made == 2
    assert [turn["others"] for turn in one.turns] == [0.0]


def test_truth_is_the_textbook_value(home: Path) -> None:
    samples = inputs.nearly_equal(40, 8, 3.0, "float64")
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
        assert truth.values(samples, SIGMA, direct=direct) == pytest.approx(expected, abs=1e-13)
        for kept in (home / "inputs").glob("*.json"):
            kept.unlink()


def test_the_table_of_one_mmd_draws_the_right_conclusions(home: Path) -> None:
    true = {"biased": 0.6, "unbiased_independent": 0.5}
    results = [
        result(f"vfmalign {one}", [seconds] * 3) for one, seconds in (("fast", 1.0), ("high", 2.0), ("exact", 4.0))
    ]
    results += [
        result(f"bare GEMM, {dtype}", [0.1] * 3, statistic="none", value=1.5, gflops=100.0, by="one library")
        for dtype in methods.GEMM_OF.values()
    ]
    results += [
        result("slower", [9.0] * 3),
        result("faster", [5.0, 6.0, 8.0]),
        result("another", [3.0] * 3, statistic="other"),
    ]
    section = sections.value_section("one", "One", results, true)
    section.sentences += sections.gemm_sentences(results)
    text = tables.markdown(section)
    assert "against the fastest exact peer, faster: 3× (2.5–4)" in text
    assert "`vfmalign fast` against `vfmalign high`: 2×" in text
    assert "`vfmalign high` reaches 75 % (75–75)" in text
    assert "timed in one go with the fastest library here: one library)" in text
    assert "| bare GEMM, float32 | 1.5 (1.5–1.5) at 100 GFLOP/s | – | – | – | one library |" in text
    assert "| slower | 9 (9–9) | 4.5× | 1 | 0.0e+00 |  |" in text
    assert "| another | 3 (3–3) | 1.5× | 1 | other statistic |  |" in text

    about = machine.describe(2)
    as_json, as_text = tables.write(home / "results", about, [section])
    assert json.loads(as_json.read_text())["sections"][0]["records"][0]["turns"][0]["seconds"] == 1.0
    assert f"torch {torch.__version__}" in as_text.read_text()


def test_it_says_which_units_there_are_and_what_fast_computes_in() -> None:
    about = machine.describe(2) | {"flags": ["avx512f", "avx512_bf16"], "bf16_matrix_units": False}
    assert "has no bf16 matrix units (AMX), only bf16 dot products of vectors" in machine.sentence(about)
    about |= {"flags": ["avx512_bf16", "amx_bf16"], "bf16_matrix_units": True}
    assert "has bf16 matrix units (AMX); flags" in machine.sentence(about)
    assert "`fast` computes in float32 as `high` does" in sections.units_sentence("cpu")
    assert "`fast` rounds rows to bfloat16" in sections.units_sentence("cuda")


def test_the_limit_is_the_whole_product_by_the_fastest_library(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []

    def product(per_flop: float) -> limit.Product:
        """Takes twice as long in tiles of other than 512 rows."""

        def multiply(a: torch.Tensor, _: torch.Tensor, out: torch.Tensor) -> None:
            calls.append((per_flop, out.numel()))
            clock[0] += per_flop * 2.0 * out.numel() * a.shape[1] * (1.0 if len(a) == 512 else 2.0)

        return multiply

    monkeypatch.setattr(limit, "_FOUND", {})
    monkeypatch.setattr(limit, "_products", lambda _: {"torch.mm": product(4e-9), "numpy": product(1e-9)})
    monkeypatch.setattr(limit.time, "perf_counter", lambda: clock[0])
    x = np.zeros((1000, 8), dtype=np.float32)
    found = limit.gemm(x, x, dtype="float32")
    assert found["value"] == pytest.approx(2000.0**2 * 8 * 1e-9)
    assert (found["gflops"], found["by"]) == (pytest.approx(1.0), "numpy, tiles of 512 × 512")
    calls.clear()
    assert limit.gemm(x, x, dtype="float32") == {**found, "value": pytest.approx(found["value"])}
    assert calls == [(1e-9, 512 * 512)] * 8, "(2·1000)²/(2·512²), rounded up: nothing is tried again"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_library_gives_the_product(dtype: torch.dtype) -> None:
    a, b = (torch.arange(48.0).remainder(7).view(6, 8).to(dtype) for _ in range(2))
    expected = a.double() @ b.T.double()
    for product in limit._products(dtype).values():
        out = torch.empty(6, 6, dtype=dtype)
        product(a, b.T, out)
        assert torch.equal(out.double(), expected.to(dtype).double())
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        gpu.require_device()


def test_an_encoder_s_forward_pass_is_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["forward", "provicnet_micro"])
    assert forward.main() == 0
    title, row = capsys.readouterr().out.splitlines()
    assert title.split()[:2] == ["architecture", "input"]
    name, size, parameters, _, first, second, peak, before = row.split()
    assert (name, size, parameters) == ("provicnet_micro", "1×16×64×64", "0.6")
    assert float(first) >= 0
    assert float(second) >= 0
    assert float(peak) >= float(before) > 0
