"""The command line: `python -m bench.monitoring`. Prints Markdown and writes JSON under `.bench/monitoring/`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench import environments, machine, tables
from bench.monitoring import charts, cost, delay, dependent, first, hippocampus, level, power
from bench.monitoring.jobs import Jobs
from bench.tables import Section

SECTIONS: dict[str, Callable[[Jobs], Section]] = {
    "level": level.simulate_level,
    "dependent": dependent.simulate_dependent,
    "first": first.simulate_first,
    "competitors": level.simulate_competitors,
    "power": power.simulate_power,
    "charts": charts.simulate_charts,
    "delay": delay.simulate_delay,
    "cost": cost.measure_cost,
}
"""Sections, in the order in which they run."""


def main() -> int:
    """Parses the arguments, simulates, prints and writes."""
    parser = argparse.ArgumentParser(prog="python -m bench.monitoring", description="Simulate the drift monitor.")
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"separated by commas: {', '.join(SECTIONS)}")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the streams to simulate (1)")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="processes of one thread each (all cores)"
    )
    parser.add_argument("--seed", type=int, default=20_261_129, help="seed of the first stream")
    parser.add_argument(
        "--shared",
        type=Path,
        default=environments.ROOT.parent / "shared",
        help="folder with data/hippocampus and data/brain-encoders (`shared` beside the repository)",
    )
    parser.add_argument("--out", type=Path, default=environments.HOME / "monitoring", help="folder of the results")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if set(chosen) - set(SECTIONS):
        parser.error(f"unknown section. Use {', '.join(SECTIONS)}.")

    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read by the processes that are started
    features = hippocampus.prepare(arguments.shared, arguments.out)
    jobs = Jobs(arguments.out, arguments.processes, arguments.seed, arguments.scale, features)
    about = machine.describe(1)
    sections = []
    for name in chosen:
        start = time.perf_counter()
        section = SECTIONS[name](jobs)
        section.sentences.append(
            f"This call took {time.perf_counter() - start:.0f} s; results of earlier calls were used as they are."
        )
        sections.append(section)
        print(tables.to_markdown(section), flush=True)
        tables.write(arguments.out, about, sections)
    return 0


if __name__ == "__main__":
    sys.exit(main())
