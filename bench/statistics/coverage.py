"""Coverage: how often the 95 % interval contains the population's MMD²."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from bench.statistics.simulations import CHANNELS, LEVEL, PERMUTATIONS, Outcome, Population, Scenario, run_tests
from bench.tables import Section, Table

GROUPS = (20, 50, 200)
LEAST_COVERAGE = 0.9
MOSTLY_WITHHELD = 0.95  # above this share the few intervals shown allow no statement
SHAPES: dict[str, dict[str, Any]] = {
    "unpaired": {},
    "paired, correlation 0.5": {"pairing": "paired"},
    "unpaired, d = 50": {"channels": 50},
    "unpaired, groups of 8 rows": {"rows_per_group": 8, "sizes": 2},
    "paired, groups of 8 rows, d = 50": {"pairing": "paired", "rows_per_group": 8, "channels": 50, "sizes": 2},
}
SHIFTS_AND_SPREADS = {"shift 0.5": (0.5, 1.0), "shift 1": (1.0, 1.0), "variance × 1.5²": (0.0, 1.5)}


def simulate_coverage(datasets: int, seed: int, processes: int) -> Section:
    """Measures how often intervals cover, over all datasets and over those whose interval is shown.

    Args:
        datasets: per cell of the table.
        seed: of the first dataset; the others follow.
        processes: to share the datasets among.
    """
    title = f"Coverage of the 95 % jackknife interval: {datasets} datasets each, d = {CHANNELS} unless noted"
    section = Section("coverage", title)
    rows = []
    for scenario in alternative_scenarios():
        outcomes = run_tests(scenario, seed, datasets, processes)
        groups = scenario.population.rows_x // scenario.population.rows_per_group
        truth = scenario.population.mmd2(scenario.options["sigma"])
        shares = coverage_shares(outcomes, truth)
        rows.append(_row(scenario.title, groups, truth, shares))
        section.records.append({"case": scenario.title, "groups": groups, "truth": truth, **shares})
    columns = (
        "alternative",
        "groups",
        "MMD²",
        "power",
        "would cover",
        "withheld",
        "covers, of those shown",
        "of those flagged",
        f"shown under {LEAST_COVERAGE:.0%}",
    )
    section.tables.append(Table("", columns, rows))
    section.sentences.append(
        "The intervals of tests that do not reject are `flagged` (`degenerate`). An interval is withheld where the "
        "bias of rows in groups exceeds half a standard error; `biased` estimates have none."
    )
    return section


def alternative_scenarios() -> list[Scenario]:
    """Returns alternatives whose population MMD² is known, with single rows and with rows in groups."""
    scenarios = []
    for name, shape in SHAPES.items():
        channels, rows_per_group = shape.get("channels", CHANNELS), shape.get("rows_per_group", 1)
        pairing = shape.get("pairing", "independent")
        for title, (shift, spread) in SHIFTS_AND_SPREADS.items():
            for groups in GROUPS[: shape.get("sizes", len(GROUPS))]:
                population = Population(
                    groups * rows_per_group,
                    groups * rows_per_group,
                    channels,
                    shift,
                    spread,
                    pair=0.5 if pairing == "paired" else 0.0,
                    within=0.5 if rows_per_group > 1 else 0.0,
                    rows_per_group=rows_per_group,
                )
                options = {
                    "pairing": pairing,
                    "sigma": float(np.sqrt(2.0 * channels)),
                    "permutations": PERMUTATIONS,
                }
                scenarios.append(Scenario(f"{name}: {title}", population, options))
    return scenarios


def coverage_shares(outcomes: list[Outcome], truth: float) -> dict[str, float]:
    """Returns the shares of intervals that cover, over all datasets and over those whose interval is shown."""
    lower, upper, p = (np.array([getattr(one, name) for one in outcomes]) for name in ("lower", "upper", "p"))
    shown = np.array([not outcome.withheld for outcome in outcomes])
    covers = (lower <= truth) & (truth <= upper)
    rejects = p <= LEVEL + 1e-12
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of an empty array is NaN, as intended
        return {
            "power": float(rejects.mean()),
            "covered": float(covers.mean()),
            "withheld": float(1.0 - shown.mean()),
            "covered_shown": float(covers[shown].mean()),
            "covered_flagged": float(covers[shown & ~rejects].mean()),
        }


def _row(title: str, groups: int, truth: float, shares: dict[str, float]) -> tuple[str, ...]:
    """Returns the cells of one scenario."""
    too_low = "withheld"
    if shares["withheld"] < MOSTLY_WITHHELD:
        too_low = "**yes**" if shares["covered_shown"] < LEAST_COVERAGE else "no"
    return (
        title,
        str(groups),
        f"{truth:.4f}",
        f"{shares['power']:.0%}",
        _percent(shares["covered"]),
        f"{shares['withheld']:.1%}",
        _percent(shares["covered_shown"]),
        _percent(shares["covered_flagged"]),
        too_low,
    )


def _percent(share: float) -> str:
    """Formats a share; a dash where it is undefined."""
    return "–" if np.isnan(share) else f"{share:.1%}"
