"""alibi-detect's online MMD detector, run by its own interpreter (`bench.competitors.alibi_detect_online`)."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench import environments
from bench.monitoring.distributions import Array

RUN_LENGTH = 1000
LEVEL_WINDOW = 10
DESCRIPTION = (
    f"alibi-detect's MMDDriftOnline has no default run length: `ert` is {RUN_LENGTH:,} rows, with ten times as many "
    "bootstraps; it refuses fewer than the run length. The window is stated; all else is left at its default."
)


def get_absent_reason() -> str | None:
    """Returns why alibi-detect cannot run, or None where it can."""
    return environments.absent_reason("torch", "alibi-detect")


def get_alarms(streams: Sequence[tuple[Array, Sequence[Array]]], *, window: int, seed: int) -> list[list[int | None]]:
    """Returns the number of the row that alarms, of each stream of each reference; one detector per reference.

    Raises:
        RuntimeError: the process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs, output = Path(folder) / "streams.npz", Path(folder) / "alarms.json"
        arrays = {f"reference-{number}": reference for number, (reference, _) in enumerate(streams)}
        for number, (_, rows) in enumerate(streams):
            arrays |= {f"stream-{number}-{place}": rows_ND for place, rows_ND in enumerate(rows)}
        np.savez(inputs, **{name: array.astype(np.float32) for name, array in arrays.items()})
        module = ["-m", "bench.competitors.alibi_detect_online"]
        arguments = [str(inputs), str(output), str(RUN_LENGTH), str(window), str(seed)]
        command = [str(environments.interpreter("torch")), *module, *arguments]
        process = subprocess.run(command, cwd=environments.ROOT, capture_output=True, text=True, check=False)
        if process.returncode:
            raise RuntimeError(f"alibi-detect failed: {process.stderr.strip().splitlines()[-1:]}")
        alarms: list[list[int | None]] = json.loads(output.read_text())
        return alarms
