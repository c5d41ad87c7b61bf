"""Whether tests keep their size, how powerful they are, and how often intervals cover: `python -m bench.statistics`.

About ten minutes on two cores at the default sizes. Prints Markdown and writes JSON under `.bench/results/`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from bench import environments, fuse, machine, tables
from bench.simulations import Answer, Case, Population, answers, each
from bench.tables import Section, Table

LEVEL = 0.05
PERMUTATIONS = 199  # (1 + 9)/(1 + 199) = 5 %: the level is attainable
COVERAGE_ROWS = (20, 50, 200)
LEAST_COVERAGE = 0.9
MOSTLY_WITHHELD = 0.95  # of a few shown intervals nothing is said
CHANNELS = 5
COVERAGE_SHAPES: dict[str, dict[str, Any]] = {
    "unpaired": {},
    "paired, correlation 0.5": {"pairing": "paired"},
    "unpaired, d = 50": {"channels": 50},
    "unpaired, groups of 8 rows": {"rows_per_group": 8, "sizes": 2},
    "paired, groups of 8 rows, d = 50": {"pairing": "paired", "rows_per_group": 8, "channels": 50, "sizes": 2},
}


def main() -> int:
    """Reads the sizes, simulates, prints and writes."""
    parser = argparse.ArgumentParser(prog="python -m bench.statistics", description=__doc__)
    known = {"size": size, "power": power, "coverage": coverage}
    parser.add_argument("--only", default=",".join(known), help=f"sections, by commas, of {', '.join(known)}")
    parser.add_argument("--size-datasets", type=int, default=2000, help="of each case (2000)")
    parser.add_argument("--power-datasets", type=int, default=1000, help="of each alternative (1000)")
    parser.add_argument("--coverage-datasets", type=int, default=1000, help="of each cell (1000)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="of one thread each (all cores)")
    parser.add_argument("--seed", type=int, default=20_240_611, help="of the first dataset")
    parser.add_argument("--out", type=Path, help="folder of the results")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if set(chosen) - set(known):
        parser.error(f"unknown section; there are {', '.join(known)}")

    folder = arguments.out or environments.HOME / "results" / time.strftime("statistics-%Y%m%d-%H%M%S")
    about = machine.describe(1)
    sections = []
    for name in chosen:
        start = time.perf_counter()
        sections.append(known[name](arguments))
        sections[-1].sentences.append(f"Simulated in {time.perf_counter() - start:.0f} s.")
        print(tables.markdown(sections[-1]), flush=True)
        tables.write(folder, about, sections)
    return 0


def binomial_range(datasets: int, level: float) -> tuple[int, int]:
    """Counts within the central 99.9 % of the binomial distribution."""
    return int(stats.binom.ppf(0.0005, datasets, level)), int(stats.binom.ppf(0.9995, datasets, level))


def size_cases() -> list[Case]:
    """Nulls: x and y have one distribution."""
    test = {"permutations": PERMUTATIONS}
    paired = {**test, "pairing": "paired"}
    cases = [
        Case("unpaired, 50 and 50 rows", Population(50, 50, CHANNELS), test),
        Case("unpaired, 30 and 70 rows, biased", Population(30, 70, CHANNELS), {**test, "estimator": "biased"}),
        Case("unpaired, 12 + 12 groups of 8 rows", Population(96, 96, 2, within=0.7, rows_per_group=8), test),
    ]
    for correlation in (0.0, 0.5, 0.95):
        title = f"paired, correlation {correlation}"
        cases.append(Case(f"{title}, 50 groups of 1 row", Population(50, 50, CHANNELS, pair=correlation), paired))
        grouped = Population(128, 128, CHANNELS, pair=correlation, within=0.7, rows_per_group=8)
        cases.append(Case(f"{title}, 16 groups of 8 rows", grouped, paired))
    few = Population(10, 10, CHANNELS, pair=0.5)
    cases += [
        Case("paired, correlation 0.5, 10 rows: all swaps", few, paired),
        Case("wild bootstrap, 50 and 50 rows", Population(50, 50, CHANNELS), {**test, "method": "wild_bootstrap"}),
        Case("aggregated, unpaired, 50 and 50 rows", Population(50, 50, CHANNELS), {**test, "aggregated": True}),
        Case(
            "aggregated, paired, correlation 0.5, 50 rows",
            Population(50, 50, CHANNELS, pair=0.5),
            {**paired, "aggregated": True},
        ),
    ]
    return cases


def size(arguments: argparse.Namespace) -> Section:
    """How often tests reject where there is nothing to find."""
    datasets = arguments.size_datasets
    section = Section("size", f"Size at {LEVEL:.0%}: {datasets} datasets each, B = {PERMUTATIONS}")
    rows = []
    for case in size_cases():
        found = answers(case, arguments.seed, datasets, arguments.processes)
        p = np.array([one.aggregated_p if case.options.get("aggregated") else one.p for one in found])
        attainable = _attainable(case)
        low, high = binomial_range(datasets, attainable)
        rejected = int((p <= LEVEL + 1e-12).sum())
        inside = low <= rejected <= high
        rows.append(
            (
                case.title,
                f"{attainable:.2%}",
                f"{rejected} ({rejected / datasets:.2%})",
                f"{low}–{high}",
                "yes" if inside else "**no**",
            )
        )
        section.records.append(
            {"case": case.title, **asdict(case.population), "rejected": rejected, "range": (low, high)}
        )
    columns = ("null", "attainable", "rejected", "99.9 % binomial range", "inside")
    section.tables.append(Table("", columns, rows))
    return section


def _attainable(case: Case) -> float:
    """The largest size up to the level that p-values can have without ties."""
    groups = case.population.rows_x // case.population.rows_per_group
    if case.paired and groups <= 12:  # enumerated in pairs: s and −s give one statistic
        return float(np.floor(LEVEL * 2.0 ** (groups - 1)) / 2.0 ** (groups - 1))
    return float(np.floor(LEVEL * (PERMUTATIONS + 1) + 1e-9) / (PERMUTATIONS + 1))


def power(arguments: argparse.Namespace) -> Section:
    """How often tests reject where there is something to find, beside their peers on the same datasets."""
    datasets = arguments.power_datasets
    section = Section("power", f"Power at {LEVEL:.0%}: n = m = 100, {datasets} datasets each, B = {PERMUTATIONS}")
    alternatives = (
        ("mean shift 0.6, d = 5", Population(100, 100, 5, shift=0.6)),
        ("mean shift 0.8, d = 20", Population(100, 100, 20, shift=0.8)),
        ("variance × 1.25², d = 5", Population(100, 100, 5, spread=1.25)),
        ("variance × 1.08², d = 20", Population(100, 100, 20, spread=1.08)),
    )
    rows = []
    for title, population in alternatives:
        case = Case(title, population, {"permutations": PERMUTATIONS, "aggregated": True})
        found = answers(case, arguments.seed, datasets, arguments.processes)
        fused = each(_fuse, case, range(arguments.seed, arguments.seed + datasets), arguments.processes)
        aggregated, single = _rejects(one.aggregated_p for one in found), _rejects(one.p for one in found)
        against: list[tuple[str, Any, str, Any]] = [
            ("aggregated", aggregated, "MMD-FUSE, paper", _rejects(one["paper"] for one in fused)),
            ("aggregated", aggregated, "MMD-FUSE, package's λ", _rejects(one["package"] for one in fused)),
        ]
        peer = _alibi(case, found, arguments.seed)
        if isinstance(peer, str):
            section.sentences.append(f"alibi-detect: {peer}.")
        else:
            against.append(("one Gaussian, pooled median", single, "alibi-detect, same σ", _rejects(peer)))
        for ours_name, ours, peer_name, theirs in against:
            rows.append((title, *_compared(ours_name, ours, peer_name, theirs)))
            section.records.append(
                {
                    "case": title,
                    "ours": ours_name,
                    "peer": peer_name,
                    "power": float(ours.mean()),
                    "peer_power": float(theirs.mean()),
                    "difference_se": _standard_error(ours, theirs),
                }
            )
    columns = ("alternative", "ours", "power", "peer", "power", "difference ± 2 SE", "not below by more than 2 SE")
    section.tables.append(Table("", columns, rows))
    section.sentences.append(
        "MMD-FUSE is transcribed from its paper in numpy (`bench/fuse.py`); SE is of the difference on common datasets."
    )
    return section


def _fuse(case: Case, seed: int) -> dict[fuse.Rate, float]:
    """MMD-FUSE on one dataset."""
    return fuse.p_values(*case.population.draw(seed), PERMUTATIONS, seed)


def _alibi(case: Case, found: list[Answer], first_seed: int) -> Any:
    """alibi-detect's p-values on the same datasets at the same bandwidths, or why there are none."""
    reason = environments.why_absent("torch", "alibi-detect")
    if reason:
        return reason
    drawn = [case.population.draw(first_seed + index) for index in range(len(found))]
    with tempfile.TemporaryDirectory() as folder:
        inputs, output = Path(folder) / "datasets.npz", Path(folder) / "p.npy"
        np.savez(inputs, x=[x for x, _ in drawn], y=[y for _, y in drawn], sigma=[one.sigma for one in found])
        command = [
            str(environments.interpreter("torch")),
            "-m",
            "bench.peers.alibi_detect_many",
            str(inputs),
            str(output),
        ]
        done = subprocess.run(
            [*command, str(PERMUTATIONS)], cwd=environments.ROOT, capture_output=True, text=True, check=False
        )
        return np.load(output) if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def _rejects(p_values: Any) -> Any:
    """Whether each p-value rejects."""
    return np.array([p <= LEVEL + 1e-12 for p in p_values], dtype=np.float64)


def _standard_error(ours: Any, theirs: Any) -> float:
    """Of the difference of two powers on common datasets."""
    return float((ours - theirs).std(ddof=1) / np.sqrt(len(ours)))


def _compared(ours_name: str, ours: Any, peer_name: str, theirs: Any) -> tuple[str, ...]:
    """The cells of one comparison."""
    difference, twice = float(ours.mean() - theirs.mean()), 2.0 * _standard_error(ours, theirs)
    return (
        ours_name,
        f"{ours.mean():.1%}",
        peer_name,
        f"{theirs.mean():.1%}",
        f"{difference:+.1%} ± {twice:.1%}",
        "yes" if difference >= -twice else "**no**",
    )


def coverage_cases() -> list[Case]:
    """Alternatives whose population MMD² is known, with rows of their own and with rows in groups."""
    cases = []
    for what, shape in COVERAGE_SHAPES.items():
        channels, rows_per_group = shape.get("channels", CHANNELS), shape.get("rows_per_group", 1)
        alternatives = {"shift 0.5": (0.5, 1.0), "shift 1": (1.0, 1.0), "variance × 1.5²": (0.0, 1.5)}
        for title, (shift, spread) in alternatives.items():
            for groups in COVERAGE_ROWS[: shape.get("sizes", 3)]:
                rows = groups * rows_per_group
                population = Population(
                    rows,
                    rows,
                    channels,
                    shift,
                    spread,
                    pair=0.5 if shape.get("pairing") == "paired" else 0.0,
                    within=0.5 if rows_per_group > 1 else 0.0,
                    rows_per_group=rows_per_group,
                )
                options = {
                    "pairing": shape.get("pairing", "independent"),
                    "sigma": float(np.sqrt(2.0 * channels)),
                    "permutations": PERMUTATIONS,
                }
                cases.append(Case(f"{what}: {title}", population, options))
    return cases


def coverage(arguments: argparse.Namespace) -> Section:
    """How often the 95 % interval holds the population's MMD²."""
    datasets = arguments.coverage_datasets
    title = f"Coverage of the 95 % jackknife interval: {datasets} datasets each, d = {CHANNELS} unless said otherwise"
    section = Section("coverage", title)
    rows = []
    for case in coverage_cases():
        found = answers(case, arguments.seed, datasets, arguments.processes)
        groups = case.population.rows_x // case.population.rows_per_group
        truth = case.population.mmd2(case.options["sigma"])
        figures = covered(found, truth)
        shown = figures["withheld"] < MOSTLY_WITHHELD
        rows.append(
            (
                case.title,
                str(groups),
                f"{truth:.4f}",
                f"{figures['power']:.0%}",
                _share(figures["covered"]),
                f"{figures['withheld']:.1%}",
                _share(figures["covered_shown"]),
                _share(figures["covered_flagged"]),
                ("**yes**" if figures["covered_shown"] < LEAST_COVERAGE else "no") if shown else "withheld",
            )
        )
        section.records.append({"case": case.title, "groups": groups, "truth": truth, **figures})
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
        "`flagged` (`degenerate`) are the intervals of tests that do not reject. An interval is withheld where the "
        "bias of rows in groups exceeds half a standard error; `biased` has none."
    )
    return section


def covered(found: list[Answer], truth: float) -> dict[str, float]:
    """Shares of intervals that cover, of all and of those shown."""
    lower, upper, p = (np.array([getattr(one, name) for one in found]) for name in ("lower", "upper", "p"))
    shown = np.array([not one.withheld for one in found])
    covers = (lower <= truth) & (truth <= upper)
    rejects = p <= LEVEL + 1e-12
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of none is NaN, which is what is meant
        return {
            "power": float(rejects.mean()),
            "covered": float(covers.mean()),
            "withheld": float(1.0 - shown.mean()),
            "covered_shown": float(covers[shown].mean()),
            "covered_flagged": float(covers[shown & ~rejects].mean()),
        }


def _share(value: float) -> str:
    """A share, or a dash where there is nothing to take it of."""
    return "–" if np.isnan(value) else f"{value:.1%}"


if __name__ == "__main__":
    sys.exit(main())
