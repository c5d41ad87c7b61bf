"""The command line: `python -m bench run|competitors|gpu`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

from bench import cases, environments, gpu, machine, tables
from bench.measure import MeasurementSettings

DEFAULT_CASES = ("one_mmd", "permutations", "permutations_cost", "nearly_equal", "accuracy")


def main() -> int:
    """Parses the arguments and runs one command."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure vfmalign's MMD engine beside its competitors."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    known_cases = cases.available()
    run = commands.add_parser("run", help="measure on the CPU")
    run.add_argument(
        "--only", type=_split_names, default=DEFAULT_CASES, help=f"cases, separated by commas: {', '.join(known_cases)}"
    )
    _add_settings(run)
    on_gpu = commands.add_parser("gpu", help="measure the engine's backends on a CUDA device")
    _add_settings(on_gpu)
    install = commands.add_parser("competitors", help="install the competitors in environments under .bench/")
    environment_names = ", ".join(environment.name for environment in environments.ENVIRONMENTS)
    install.add_argument("names", nargs="*", help=f"environments to create (all by default): {environment_names}")
    install.add_argument("--from-git", action="store_true", help="include packages that only a git repository provides")
    arguments = parser.parse_args()
    # SystemExit unwinds the stack, so that `measure.compare` ends the processes it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    if arguments.command == "competitors":
        environments.install(arguments.names, from_git=arguments.from_git)
        return 0
    settings = MeasurementSettings(
        repeats=arguments.repeats,
        threads=arguments.threads,
        competitors=arguments.competitors,
        slow=arguments.slow,
        call_limit_s=arguments.call_limit_s,
        retries=arguments.retries,
        cuda=arguments.command == "gpu",
    )
    if arguments.command == "gpu":
        gpu.require_device()
        return _measure(tuple(gpu.CASES), gpu.CASES, settings)
    unknown = [name for name in arguments.only if name not in known_cases]
    if unknown:
        parser.error(f"unknown case {', '.join(unknown)}. Use {', '.join(known_cases)}.")
    return _measure(arguments.only, known_cases, settings)


def _measure(names: tuple[str, ...], known_cases: dict[str, cases.MeasureCase], settings: MeasurementSettings) -> int:
    """Runs the cases one after the other and prints each section when it is complete."""
    folder = environments.HOME / "results" / time.strftime("%Y%m%d-%H%M%S")
    about = machine.describe(settings.threads)
    about["competitors"] = {
        environment.name: environments.versions(environment.name) for environment in environments.ENVIRONMENTS
    }
    print(machine.sentence(about))
    print(
        f"Every method runs in a process of its own, {settings.repeats} turns after a warm-up; median (min–max).\n",
        flush=True,
    )
    sections = []
    for name in names:
        sections.append(known_cases[name](settings))
        print(tables.to_markdown(sections[-1]), flush=True)
        paths = tables.write(folder, about, sections)
    print(f"Written to {' and '.join(str(path.relative_to(environments.ROOT)) for path in paths)}")
    return 0


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds the options of every command that measures."""
    parser.add_argument("--repeats", type=int, default=5, help="counted turns of every method (5)")
    parser.add_argument(
        "--retries", type=int, default=5, help="how often to repeat a call that other processes disturbed (5)"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of each process (all cores)")
    parser.add_argument(
        "--competitors",
        type=_split_names,
        default=(),
        help="names separated by commas; all by default, `none` for vfmalign alone",
    )
    parser.add_argument("--slow", action="store_true", help="include competitors that take minutes")
    parser.add_argument("--call-limit-s", type=float, default=300.0, help="seconds after which a call is ended (300)")


def _split_names(text: str) -> tuple[str, ...]:
    """Splits names at commas."""
    return tuple(name for name in text.split(",") if name)


if __name__ == "__main__":
    sys.exit(main())
