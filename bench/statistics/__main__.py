"""The command line: `python -m bench.statistics`. Prints Markdown and writes JSON under `.bench/results/`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench import environments, machine, tables
from bench.statistics.convergence import simulate_convergence
from bench.statistics.coverage import simulate_coverage
from bench.statistics.equivalence import simulate_equivalence
from bench.statistics.experiments import simulate_experiments
from bench.statistics.families import simulate_families
from bench.statistics.few_patients import simulate_classes, simulate_skewness
from bench.statistics.fourier import simulate_fourier
from bench.statistics.power import simulate_power
from bench.statistics.random_weights import run_controls, simulate_pretraining
from bench.statistics.size import simulate_size
from bench.statistics.training_seeds import simulate_seeds
from bench.statistics.trainings import ARCHITECTURES
from bench.tables import Section

SECTIONS: dict[str, Callable[[argparse.Namespace], Section]] = {
    "size": lambda arguments: simulate_size(arguments.size_datasets, arguments.seed, arguments.processes),
    "power": lambda arguments: simulate_power(arguments.power_datasets, arguments.seed, arguments.processes),
    "coverage": lambda arguments: simulate_coverage(arguments.coverage_datasets, arguments.seed, arguments.processes),
    "fourier": lambda arguments: simulate_fourier(arguments.fourier_draws, arguments.seed, arguments.processes),
    "convergence": lambda arguments: simulate_convergence(arguments.curves, arguments.seed),
    "seeds": lambda arguments: simulate_seeds(arguments.seeds_datasets, arguments.seed),
    "pretraining": lambda arguments: simulate_pretraining(arguments.seeds_datasets, arguments.seed),
    "equivalence": lambda arguments: simulate_equivalence(arguments.equivalence_datasets, arguments.seed),
    "skewness": lambda arguments: simulate_skewness(arguments.few_datasets, arguments.seed),
    "classes": lambda arguments: simulate_classes(arguments.few_datasets, arguments.seed),
    "experiments": lambda arguments: simulate_experiments(arguments.simulations, arguments.seed, arguments.processes),
    "families": lambda arguments: simulate_families(arguments.simulations, arguments.seed, arguments.processes),
}
"""Simulations, in the order in which they run."""
TRAINED: dict[str, Callable[[argparse.Namespace], Section]] = {
    "controls": lambda arguments: run_controls(
        arguments.controls,
        arguments.processes,
        arguments.seed,
        architectures=arguments.control_architectures.split(","),
        states=arguments.control_states,
    ),
}
"""Sections that train networks, for an hour or two on two cores: only where `--only` names them."""


def main() -> int:
    """Parses the arguments, simulates, prints and writes."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.statistics",
        description="Simulate the size and power of tests, coverage, convergence, verdicts and experiments.",
    )
    parser.add_argument(
        "--only", default=",".join(SECTIONS), help=f"separated by commas: {', '.join(SECTIONS | TRAINED)}"
    )
    parser.add_argument("--size-datasets", type=int, default=2000, help="datasets per null distribution (2000)")
    parser.add_argument("--power-datasets", type=int, default=1000, help="datasets per alternative (1000)")
    parser.add_argument("--coverage-datasets", type=int, default=1000, help="datasets per cell (1000)")
    parser.add_argument("--fourier-draws", type=int, default=500, help="draws per row of random Fourier features (500)")
    parser.add_argument("--seeds-datasets", type=int, default=2000, help="datasets per cell of training seeds (2000)")
    parser.add_argument("--equivalence-datasets", type=int, default=300, help="datasets per cell of equivalence (300)")
    parser.add_argument("--few-datasets", type=int, default=400, help="datasets per cell of few patients (400)")
    parser.add_argument("--curves", type=int, default=2000, help="learning curves per cell of convergence (2000)")
    parser.add_argument("--simulations", type=int, default=2000, help="simulated experiments per row (2000)")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="processes of one thread each (all cores)"
    )
    parser.add_argument("--seed", type=int, default=20_240_611, help="seed of the first dataset")
    parser.add_argument(
        "--controls", type=Path, default=environments.HOME / "controls", help="folder of the trainings, which resume"
    )
    parser.add_argument(
        "--control-architectures",
        default=",".join(ARCHITECTURES),
        help="of the negative control, separated by commas; also ResNet-10 and ResNet-18",
    )
    parser.add_argument("--control-states", type=int, default=20, help="initial weights per cell (20)")
    parser.add_argument("--out", type=Path, help="folder of the results")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if set(chosen) - set(SECTIONS | TRAINED):
        parser.error(f"unknown section. Use {', '.join(SECTIONS | TRAINED)}.")

    folder = arguments.out or environments.HOME / "results" / time.strftime("statistics-%Y%m%d-%H%M%S")
    about = machine.describe(1)
    sections = []
    for name in chosen:
        start = time.perf_counter()
        section = (SECTIONS | TRAINED)[name](arguments)
        section.sentences.append(f"Simulated in {time.perf_counter() - start:.0f} s.")
        sections.append(section)
        print(tables.to_markdown(section), flush=True)
        tables.write(folder, about, sections)
    return 0


if __name__ == "__main__":
    sys.exit(main())
