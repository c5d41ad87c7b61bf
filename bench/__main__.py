"""The command line: `python -m bench run|peers|gpu`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

from bench import cases, environments, gpu, machine, tables
from bench.measure import Settings

DEFAULT = ("one_mmd", "permutations", "permutations_cost", "nearly_equal", "accuracy")


def main() -> int:
    """Reads the arguments and runs one of the commands."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measures vfmalign's MMD engine beside its peers."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure on the CPU")
    known = tuple(cases.available())
    run.add_argument("--only", type=_names, default=DEFAULT, help=f"cases, by commas, of {', '.join(known)}")
    _add_settings(run)
    on_gpu = commands.add_parser("gpu", help="measure ours on a CUDA device")
    _add_settings(on_gpu)
    peers = commands.add_parser("peers", help="install the peers, each where it fits, under .bench/")
    peers.add_argument(
        "names", nargs="*", help=f"environments of {', '.join(one.name for one in environments.ENVIRONMENTS)}"
    )
    peers.add_argument("--from-git", action="store_true", help="also those that are only in a git repository")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes are ended on the way out

    if arguments.command == "peers":
        environments.install(arguments.names, from_git=arguments.from_git)
        return 0
    settings = Settings(
        repeats=arguments.repeats,
        threads=arguments.threads,
        peers=arguments.peers,
        slow=arguments.slow,
        call_limit_s=arguments.call_limit_s,
        retries=arguments.retries,
        cuda=arguments.command == "gpu",
    )
    if arguments.command == "gpu":
        gpu.require_device()
        return _measure(tuple(gpu.CASES), gpu.CASES, settings)
    unknown = [name for name in arguments.only if name not in known]
    if unknown:
        parser.error(f"unknown case {', '.join(unknown)}; there are {', '.join(known)}")
    return _measure(arguments.only, cases.available(), settings)


def _measure(names: tuple[str, ...], known: dict[str, cases.Case], settings: Settings) -> int:
    """Runs the cases one after the other, printing each as it is done."""
    folder = environments.HOME / "results" / time.strftime("%Y%m%d-%H%M%S")
    about = machine.describe(settings.threads)
    about["peers"] = {one.name: environments.versions(one.name) for one in environments.ENVIRONMENTS}
    print(machine.sentence(about))
    print(
        f"Every method in a process of its own; {settings.repeats} turns after a warm-up; median (min–max).\n",
        flush=True,
    )
    sections = []
    for name in names:
        sections.append(known[name](settings))
        print(tables.markdown(sections[-1]), flush=True)
        written = tables.write(folder, about, sections)
    print(f"Written to {' and '.join(str(path.relative_to(environments.ROOT)) for path in written)}")
    return 0


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """The options of every measuring command."""
    parser.add_argument("--repeats", type=int, default=5, help="counted turns of every method (5)")
    parser.add_argument(
        "--retries", type=int, default=5, help="how often a call is repeated that others on the machine disturbed (5)"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of every process (all cores)")
    parser.add_argument(
        "--peers", type=_names, default=(), help="names by commas; all where none is named; `none` for ours alone"
    )
    parser.add_argument("--slow", action="store_true", help="also the peers that take minutes")
    parser.add_argument("--call-limit-s", type=float, default=300.0, help="a call that takes longer is ended (300)")


def _names(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(name for name in text.split(",") if name)


if __name__ == "__main__":
    sys.exit(main())
