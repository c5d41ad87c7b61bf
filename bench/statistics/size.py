"""Size: how often tests reject where both samples have the same distribution."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from scipy import stats

from bench.statistics.simulations import CHANNELS, LEVEL, PERMUTATIONS, Population, Scenario, run_tests
from bench.tables import Section, Table


def simulate_size(datasets: int, seed: int, processes: int) -> Section:
    """Counts the rejections of every null scenario beside the binomial range of the attainable level.

    Args:
        datasets: per scenario.
        seed: of the first dataset; the others follow.
        processes: to share the datasets among.
    """
    section = Section("size", f"Size at {LEVEL:.0%}: {datasets} datasets each, B = {PERMUTATIONS}")
    rows = []
    for scenario in null_scenarios():
        outcomes = run_tests(scenario, seed, datasets, processes)
        aggregated = scenario.options.get("aggregated")
        p = np.array([outcome.aggregated_p if aggregated else outcome.p for outcome in outcomes])
        attainable = _attainable_level(scenario)
        low, high = binomial_range(datasets, attainable)
        rejected = int((p <= LEVEL + 1e-12).sum())
        inside = low <= rejected <= high
        rows.append(
            (
                scenario.title,
                f"{attainable:.2%}",
                f"{rejected} ({rejected / datasets:.2%})",
                f"{low}–{high}",
                "yes" if inside else "**no**",
            )
        )
        section.records.append(
            {"case": scenario.title, **asdict(scenario.population), "rejected": rejected, "range": (low, high)}
        )
    columns = ("null", "attainable", "rejected", "99.9 % binomial range", "inside")
    section.tables.append(Table("", columns, rows))
    return section


def null_scenarios() -> list[Scenario]:
    """Returns scenarios in which x and y have the same distribution."""
    test = {"permutations": PERMUTATIONS}
    paired = {**test, "pairing": "paired"}
    scenarios = [
        Scenario("unpaired, 50 and 50 rows", Population(50, 50, CHANNELS), test),
        Scenario("unpaired, 30 and 70 rows, biased", Population(30, 70, CHANNELS), {**test, "estimator": "biased"}),
        Scenario("unpaired, 12 + 12 groups of 8 rows", Population(96, 96, 2, within=0.7, rows_per_group=8), test),
    ]
    for correlation in (0.0, 0.5, 0.95):
        title = f"paired, correlation {correlation}"
        single = Population(50, 50, CHANNELS, pair=correlation)
        grouped = Population(128, 128, CHANNELS, pair=correlation, within=0.7, rows_per_group=8)
        scenarios.append(Scenario(f"{title}, 50 groups of 1 row", single, paired))
        scenarios.append(Scenario(f"{title}, 16 groups of 8 rows", grouped, paired))
    balanced, correlated = Population(50, 50, CHANNELS), Population(50, 50, CHANNELS, pair=0.5)
    enumerated = Population(10, 10, CHANNELS, pair=0.5)
    scenarios += [
        Scenario("paired, correlation 0.5, 10 rows: all swaps", enumerated, paired),
        Scenario("wild bootstrap, 50 and 50 rows", balanced, {**test, "method": "wild_bootstrap"}),
        Scenario("aggregated, unpaired, 50 and 50 rows", balanced, {**test, "aggregated": True}),
        Scenario("aggregated, paired, correlation 0.5, 50 rows", correlated, {**paired, "aggregated": True}),
    ]
    return scenarios


def binomial_range(datasets: int, level: float) -> tuple[int, int]:
    """Returns the counts that bound the central 99.9 % of the binomial distribution."""
    return int(stats.binom.ppf(0.0005, datasets, level)), int(stats.binom.ppf(0.9995, datasets, level))


def _attainable_level(scenario: Scenario) -> float:
    """Returns the largest size up to the level that p-values can have without ties."""
    groups = scenario.population.rows_x // scenario.population.rows_per_group
    if scenario.paired and groups <= 12:  # all swaps are enumerated in pairs: s and −s give one statistic
        return float(np.floor(LEVEL * 2.0 ** (groups - 1)) / 2.0 ** (groups - 1))
    return float(np.floor(LEVEL * (PERMUTATIONS + 1) + 1e-9) / (PERMUTATIONS + 1))
