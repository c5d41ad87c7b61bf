"""Cost at d = 768: rows per second by size of the bag, and memory over a million rows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.monitoring.jobs import Job, Jobs
from bench.tables import Section, Table
from vfmalign.monitoring.sequential import Monitor, MonitorOptions, block_scores, to_bytes

CHANNELS, REFERENCE, BATCH = 768, 1000, 64
MEASURED_ROWS = 640
ROWS_AFTER_BLOCKS = 1_000_000
BAGS = (5_000, 20_000)
REQUIRED = {"bag of 5,000": 600, "bag of 20,000": 200, "after the blocks": 1000}


def measure_cost(jobs: Jobs) -> Section:
    """Measures one monitor in one process."""
    section = Section("cost", f"Cost at d = {CHANNELS}, reference {REFERENCE:,}, batches of {BATCH}, one thread")
    figures = jobs.run("cost", run_cost, [{"seed": jobs.seed, "rows": jobs.count(ROWS_AFTER_BLOCKS)}])[0]
    rows = []
    for name, required in REQUIRED.items():
        one = figures[name]
        verdict = "yes" if one["rows_per_s"] >= required else "**no**"
        cells = (f"{one['rows']:,}", f"{one['rows_per_s']:,.0f}", f"{required:,}", verdict)
        rows.append((name, *cells, f"{one['resident_mb']:,.0f}", f"{one['state_mb']:,.1f}"))
    columns = ("stage", "rows", "rows/s", "required", "reached", "resident MB after", "state MB")
    section.tables.append(Table("", columns, rows))
    section.sentences.append(
        f"Time is that of `observe` alone. The process has {figures['before_mb']:,.0f} MB before the monitor, and at "
        f"most {figures['peak_mb']:,.0f} MB. Every row has a patient of its own."
    )
    section.records.append({"case": "cost", **figures})
    return section


def run_cost(job: Job) -> dict[str, Any]:
    """Returns the figures of every stage."""
    rng = np.random.default_rng(job["seed"])
    before_mb = _read_status("VmRSS")
    reference = rng.standard_normal((REFERENCE, CHANNELS))
    monitor = Monitor(MonitorOptions(), reference, [f"r{row}" for row in range(REFERENCE)])
    calibration = len(monitor.reference.calibration_CD)
    figures: dict[str, Any] = {"before_mb": before_mb}
    for bag in BAGS:
        start = min(bag - calibration, block_scores.LAST_ROW - MEASURED_ROWS)
        _observe(monitor, start - monitor.status.rows, rng)
        figures[f"bag of {bag:,}"] = _measure(monitor, MEASURED_ROWS, rng)
    _observe(monitor, block_scores.LAST_ROW - monitor.status.rows, rng)
    figures["after the blocks"] = _measure(monitor, job["rows"], rng)
    figures["peak_mb"] = _read_status("VmHWM")
    return figures


def _measure(monitor: Monitor, rows: int, rng: np.random.Generator) -> dict[str, float]:
    seconds = _observe(monitor, rows, rng)
    resident_mb = _read_status("VmRSS")
    return {
        "rows": rows,
        "rows_per_s": rows / seconds,
        "resident_mb": resident_mb,
        "state_mb": len(to_bytes(monitor)) / 1e6,
    }


def _observe(monitor: Monitor, rows: int, rng: np.random.Generator) -> float:
    """Observes rows in batches and returns the seconds that `observe` took."""
    seconds = 0.0
    first = monitor.status.rows
    for start in range(0, rows, BATCH):
        size = min(BATCH, rows - start)
        rows_ND = rng.standard_normal((size, CHANNELS))
        names = [f"{first + start + row}" for row in range(size)]
        begin = time.perf_counter()
        monitor.observe(rows_ND, names, names)
        seconds += time.perf_counter() - begin
    return seconds


def _read_status(name: str) -> float:
    """Returns a field of /proc/self/status in MB of 10⁶ bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / 1e6
