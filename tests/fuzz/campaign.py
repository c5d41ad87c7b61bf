"""Fuzz one target in this process: `python -m tests.fuzz.campaign TARGET FINDINGS [libFuzzer's options] [CORPUS …]`.

A finding is written to a file of its own and fuzzing continues, so that one bug does not hide the others. libFuzzer
itself ends the process on a crash, a hang and when the whole process needs too much memory.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import atheris
from tests.fuzz.harness import Finding, Target, check_input, load_target
from tests.fuzz.json_mutator import make_json_mutator


def main() -> None:
    """Runs libFuzzer until the time is over."""
    program, name, findings, *options = sys.argv
    with atheris.instrument_imports(include=["vfmalign"]):
        target = load_target(name)
    mutators = {}
    if target.is_json:  # `Setup` replaces `atheris.Mutate`
        mutators["custom_mutator"] = make_json_mutator(target.words, lambda *arguments: atheris.Mutate(*arguments))
    atheris.Setup([program, *options], lambda data: _check(target, bytes(data), Path(findings)), **mutators)
    atheris.Fuzz()


def _check(target: Target, data: bytes, findings: Path) -> None:
    try:
        check_input(target, data)
    except Finding as finding:
        path = findings / finding.signature
        if not path.exists():  # the first input of each cause is enough
            path.write_bytes(data)
            path.with_suffix(".txt").write_text(traceback.format_exc())
            print(f"finding: {finding.signature}: {finding}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
