"""Fuzz every target: `python -m tests.fuzz --seconds 600`, which `make fuzz SECONDS=600` calls.

Each target runs in a process of its own that is started again after a crash, until its time is over. New inputs and
findings are kept in `.fuzz/<target>/`. Exits with 1 if there is a finding.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.harness import CORPUS, list_targets, load_target

ROOT = Path(__file__).resolve().parents[2]
HANG_S = 60
"""Wall time after which one input counts as a hang; the CPU time of an input is limited by the harness."""
MAX_PROCESS_MIB = 4096


@dataclass
class Outcome:
    """What fuzzing one target gave."""

    target: str
    seconds: float = 0.0
    inputs: int = 0
    covered: int = 0
    findings: Sequence[Path] = ()
    error: str = ""

    def add(self, log: str) -> None:
        """Adds the statistics that libFuzzer wrote into a process's log."""
        counts = re.findall(r"number_of_executed_units:\s+(\d+)", log) or re.findall(r"^#(\d+)", log, re.MULTILINE)
        self.inputs += int(counts[-1]) if counts else 0
        self.covered = max([self.covered, *map(int, re.findall(r"cov: (\d+)", log))])


def fuzz(name: str, seconds: int, folder: Path) -> Outcome:
    """Fuzzes one target, and returns its findings and statistics."""
    findings, corpus, log = folder / name / "findings", folder / name / "corpus", folder / name / "log.txt"
    shutil.rmtree(findings, ignore_errors=True)
    for path in (findings, corpus, CORPUS / name):
        path.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.campaign", name, str(findings)]
    inputs = [f"-artifact_prefix={findings}/", *_make_options(name, folder), str(corpus), str(CORPUS / name)]
    outcome, started = Outcome(name), time.monotonic()
    while (remaining_s := seconds - int(time.monotonic() - started)) > 0:
        before = len(_list_findings(findings))
        with log.open("w") as file:
            run = subprocess.run(
                [*command, f"-max_total_time={remaining_s}", *inputs],
                cwd=ROOT,
                stdout=file,
                stderr=file,
                env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
                check=False,
            )
        outcome.add(log.read_text(errors="replace"))
        if run.returncode == 0:
            break
        if len(_list_findings(findings)) == before:  # neither a crash nor a hang: the target itself is broken
            outcome.error = f"ended with {run.returncode}: see {log}"
            break
    if not outcome.inputs and not outcome.error:  # no finding would then mean nothing
        outcome.error = f"ran no input: see {log}"
    outcome.seconds, outcome.findings = time.monotonic() - started, _list_findings(findings)
    return outcome


def _list_findings(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix != ".txt")


def _make_options(name: str, folder: Path) -> list[str]:
    target = load_target(name)
    options = [f"-max_len={target.max_bytes}", f"-timeout={HANG_S}", f"-report_slow_units={HANG_S}"]
    options += [f"-rss_limit_mb={MAX_PROCESS_MIB}", "-print_final_stats=1"]
    if target.words and not target.is_json:
        path = folder / name / "words.dict"
        escaped = ("".join(f"\\x{byte:02x}" for byte in word.encode()) for word in target.words)
        path.write_text("".join(f'"{word}"\n' for word in escaped if word))
        options.append(f"-dict={path}")
    return options


def main() -> int:
    """Fuzzes the chosen targets and prints a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the entry points.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(list_targets())}; all by default")
    parser.add_argument("--seconds", type=int, default=600, help="time per target (default 600)")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time (default 1)")
    parser.add_argument("--folder", type=Path, default=ROOT / ".fuzz", help="new inputs, findings and logs")
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(list_targets()):
        parser.error(f"no target is called {', '.join(sorted(unknown))}")
    folder: Path = arguments.folder.resolve()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        outcomes = list(
            pool.map(lambda name: fuzz(name, arguments.seconds, folder), arguments.targets or list_targets())
        )
    print(f"{'target':24} {'seconds':>8} {'inputs':>9} {'covered':>8}  findings")
    for outcome in outcomes:
        summary = outcome.error or len(outcome.findings)
        print(f"{outcome.target:24} {outcome.seconds:8.0f} {outcome.inputs:9} {outcome.covered:8}  {summary}")
        for path in outcome.findings:
            print(f"    {path}")
    return int(any(outcome.findings or outcome.error for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
