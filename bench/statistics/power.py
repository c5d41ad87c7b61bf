"""Power: how often tests reject where the distributions differ, beside competitors on the same datasets."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import environments
from bench.statistics import mmd_fuse
from bench.statistics.simulations import LEVEL, PERMUTATIONS, Array, Outcome, Population, Scenario, map_seeds, run_tests
from bench.tables import Section, Table

Comparison = tuple[str, Array, str, Array]
"""Name and rejections of vfmalign's test, and those of a competitor's."""

ALTERNATIVES = (
    ("mean shift 0.6, d = 5", Population(100, 100, 5, shift=0.6)),
    ("mean shift 0.8, d = 20", Population(100, 100, 20, shift=0.8)),
    ("variance × 1.25², d = 5", Population(100, 100, 5, spread=1.25)),
    ("variance × 1.08², d = 20", Population(100, 100, 20, spread=1.08)),
)


def simulate_power(datasets: int, seed: int, processes: int) -> Section:
    """Compares powers on common datasets.

    Args:
        datasets: per alternative.
        seed: of the first dataset; the others follow.
        processes: to share the datasets among.
    """
    section = Section("power", f"Power at {LEVEL:.0%}: n = m = 100, {datasets} datasets each, B = {PERMUTATIONS}")
    rows = []
    for title, population in ALTERNATIVES:
        scenario = Scenario(title, population, {"permutations": PERMUTATIONS, "aggregated": True})
        outcomes = run_tests(scenario, seed, datasets, processes)
        fused = map_seeds(_mmd_fuse, scenario, range(seed, seed + datasets), processes)
        aggregated = _rejections(outcome.aggregated_p for outcome in outcomes)
        comparisons: list[Comparison] = [
            ("aggregated", aggregated, "MMD-FUSE, paper", _rejections(p["paper"] for p in fused)),
            ("aggregated", aggregated, "MMD-FUSE, package's λ", _rejections(p["package"] for p in fused)),
        ]
        alibi = _alibi_detect(scenario, outcomes, seed)
        if isinstance(alibi, str):
            if (sentence := f"alibi-detect: {alibi}.") not in section.sentences:
                section.sentences.append(sentence)
        else:
            single = _rejections(outcome.p for outcome in outcomes)
            comparisons.append(("one Gaussian, pooled median", single, "alibi-detect, same σ", _rejections(alibi)))
        for comparison in comparisons:
            rows.append((title, *_row(comparison)))
            section.records.append({"case": title, **_record(comparison)})
    columns = (
        "alternative",
        "vfmalign",
        "power",
        "competitor",
        "power",
        "difference ± 2 SE",
        "not below by more than 2 SE",
    )
    section.tables.append(Table("", columns, rows))
    section.sentences.append(
        "MMD-FUSE is transcribed from its paper in numpy (`bench/statistics/mmd_fuse.py`). SE is the standard error of "
        "the difference on common datasets."
    )
    return section


def _mmd_fuse(scenario: Scenario, seed: int) -> dict[mmd_fuse.Rate, float]:
    """Runs MMD-FUSE on one dataset."""
    return mmd_fuse.p_values(*scenario.population.draw(seed), PERMUTATIONS, seed)


def _alibi_detect(scenario: Scenario, outcomes: list[Outcome], first_seed: int) -> NDArray[np.float64] | str:
    """Returns alibi-detect's p-values on the same datasets at the same bandwidths, or why there are none."""
    reason = environments.absent_reason("torch", "alibi-detect")
    if reason:
        return reason
    drawn = [scenario.population.draw(first_seed + index) for index in range(len(outcomes))]
    with tempfile.TemporaryDirectory() as folder:
        inputs, output = Path(folder) / "datasets.npz", Path(folder) / "p.npy"
        sigmas = [outcome.sigma for outcome in outcomes]
        np.savez(inputs, x=[x for x, _ in drawn], y=[y for _, y in drawn], sigma=sigmas)
        module = ["-m", "bench.competitors.alibi_detect_many"]
        command = [str(environments.interpreter("torch")), *module, str(inputs), str(output), str(PERMUTATIONS)]
        process = subprocess.run(command, cwd=environments.ROOT, capture_output=True, text=True, check=False)
        if process.returncode:
            return process.stderr.strip().splitlines()[-1]
        return np.asarray(np.load(output), dtype=np.float64)


def _rejections(p_values: Iterable[float]) -> Array:
    """Returns 1 for each p-value that rejects and 0 for the others."""
    return np.array([p <= LEVEL + 1e-12 for p in p_values], dtype=np.float64)


def _standard_error(rejected: Array, competitor_rejected: Array) -> float:
    """Returns the standard error of the difference of two powers on common datasets."""
    return float((rejected - competitor_rejected).std(ddof=1) / np.sqrt(len(rejected)))


def _row(comparison: Comparison) -> tuple[str, ...]:
    """Returns the cells of one comparison."""
    name, rejected, competitor, competitor_rejected = comparison
    difference = float(rejected.mean() - competitor_rejected.mean())
    twice = 2.0 * _standard_error(rejected, competitor_rejected)
    return (
        name,
        f"{rejected.mean():.1%}",
        competitor,
        f"{competitor_rejected.mean():.1%}",
        f"{difference:+.1%} ± {twice:.1%}",
        "yes" if difference >= -twice else "**no**",
    )


def _record(comparison: Comparison) -> dict[str, str | float]:
    """Returns one comparison for programs."""
    name, rejected, competitor, competitor_rejected = comparison
    return {
        "test": name,
        "competitor": competitor,
        "power": float(rejected.mean()),
        "competitor_power": float(competitor_rejected.mean()),
        "difference_se": _standard_error(rejected, competitor_rejected),
    }
