"""Delay beside alibi-detect's online detector, at equal measured run lengths without a change.

The competitor is set to a run length of 1,000 rows and its real one is measured. The thresholds of the Shiryaev–Roberts
statistics are then moved together until the monitor has the same run length on the same streams.

Legend: N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.monitoring import alibi, power
from bench.monitoring.distributions import REAL, Array, draw, draw_changed, make_rng
from bench.monitoring.jobs import Job, Jobs
from bench.monitoring.power import BEFORE, CHANNELS, REFERENCE
from bench.monitoring.trajectories import run_stream
from bench.tables import Section, Table

NULL_ROWS, AFTER = 3000, 400
REFERENCES, NULL_STREAMS, STREAMS = 5, 20, 20
"""References of each distribution, and streams of each reference: the competitor takes long to prepare a reference."""
WINDOWS = (10, 20)
CHANGES = {
    "gaussian": ("shift 0.25", "shift 0.5", "shift 1", "direction 1", "direction 2", "variance 1.5"),
    "t3": ("t3 shift 0.5",),
    REAL: ("blur 1 mm", "blur 1.5 mm", "noise 40 %", "bias field ±50 %"),
}
REQUIRED = ("shift 0.5", "shift 1", "variance 1.5", "blur 1 mm", "blur 1.5 mm")
"""Changes for which the monitor may not be slower."""


@dataclass(frozen=True)
class Recorded:
    """New maxima of the monitor's statistic over its thresholds: the row and the value of each, and all rows."""

    rows: list[int]
    values: list[float]
    length: int

    def get_alarm(self, offset: float) -> int | None:
        """Returns the row that alarms where all thresholds are higher by an offset."""
        return next((row for row, value in zip(self.rows, self.values, strict=True) if value >= offset), None)


def simulate_delay(jobs: Jobs) -> Section:
    """Compares the delays for every change."""
    section = Section("delay", f"Delay beside alibi-detect's MMDDriftOnline, reference {REFERENCE}")
    reason = alibi.get_absent_reason()
    if reason:
        section.sentences.append(f"alibi-detect: {reason}.")
        return section
    rows = []
    for distribution, changes in CHANGES.items():
        if distribution == REAL and not jobs.features:
            continue
        listed = _get_jobs(jobs, distribution)
        recorded = _merge(jobs.run("delay", run_monitor, listed))
        null = [Recorded(**stream) for stream in recorded[""]]
        for window in WINDOWS:
            theirs = _merge(jobs.run("alibi-delay", run_alibi, [{**job, "window": window} for job in listed]))
            run_length = get_run_length(theirs[""], NULL_ROWS)
            offset = find_offset(null, run_length)
            run_lengths = run_length, get_monitor_length(null, offset)
            for change in changes:
                ours = [Recorded(**stream).get_alarm(offset) for stream in recorded[change]]
                rows.append(_make_row(change, window, run_lengths, ours, theirs[change]))
                section.records.append({"case": "delay", "change": change, "window": window, "offset": offset})
    columns = (
        "change",
        "window",
        "run length, alibi-detect",
        "run length, monitor",
        "median delay, alibi-detect",
        "median delay, monitor",
        "90 % quantiles",
        "slower",
    )
    section.tables.append(Table("", columns, rows))
    section.sentences += [
        alibi.DESCRIPTION,
        "Both see the same streams. Delays are in rows, of streams without an alarm before the change; the changes are "
        "those of the table of powers. A change for which the monitor must not be slower is marked where it is.",
    ]
    return section


def get_run_length(alarms: Sequence[int | None], rows: int) -> float:
    """Returns the mean run length of streams that end at the alarm or after `rows`: rows per alarm."""
    observed = sum(rows if alarm is None else alarm for alarm in alarms)
    return observed / max(1, sum(alarm is not None for alarm in alarms))


def get_monitor_length(null: Sequence[Recorded], offset: float) -> float:
    """Returns the monitor's mean run length with all thresholds moved by an offset."""
    return get_run_length([one.get_alarm(offset) for one in null], null[0].length)


def find_offset(null: Sequence[Recorded], run_length: float) -> float:
    """Returns the smallest offset in steps of 0.01 at which the monitor's run length is at least `run_length`."""
    offsets = np.arange(-4.0, 6.0, 0.01)
    return float(next((offset for offset in offsets if get_monitor_length(null, offset) >= run_length), offsets[-1]))


def run_monitor(job: Job) -> dict[str, list[dict[str, Any]]]:
    """Returns the new maxima of every stream of a reference, by change; "" names those without one."""
    reference_ND, streams = _draw(job)
    return {
        change: [_record(reference_ND, rows_ND, job["seed"] + number) for number, rows_ND in enumerate(drawn)]
        for change, drawn in streams.items()
    }


def run_alibi(job: Job) -> dict[str, list[int | None]]:
    """Returns the alarm of every stream of a reference, by change, from one detector."""
    reference_ND, streams = _draw(job)
    flat = [rows_ND for drawn in streams.values() for rows_ND in drawn]
    alarms = iter(alibi.get_alarms([(reference_ND, flat)], window=job["window"], seed=job["seed"])[0])
    return {change: [next(alarms) for _ in drawn] for change, drawn in streams.items()}


def _record(reference_ND: Array, rows_ND: Array, seed: int) -> dict[str, Any]:
    maxima_N = np.maximum.accumulate(
        run_stream(reference_ND, rows_ND, seed, run_length=alibi.RUN_LENGTH).get_excess(alibi.RUN_LENGTH)
    )
    places = np.flatnonzero(np.diff(maxima_N, prepend=-np.inf) > 0.0)
    return {"rows": (places + 1).tolist(), "values": maxima_N[places].tolist(), "length": len(rows_ND)}


def _get_jobs(jobs: Jobs, distribution: str) -> list[Job]:
    """Returns one job for each reference."""
    job = {
        "distribution": distribution,
        "features": str(jobs.features) if distribution == REAL else None,
        "null": jobs.count(NULL_STREAMS),
        "changed": jobs.count(STREAMS),
    }
    return [{**job, "seed": jobs.seed + 1000 * number} for number in range(jobs.count(REFERENCES))]


def _draw(job: Job) -> tuple[Array, dict[str, list[Array]]]:
    """Draws a reference and its streams by change."""
    rng, features = make_rng(job["seed"]), job["features"]
    reference_ND = draw(job["distribution"], REFERENCE, CHANNELS, rng, features)
    null = [draw(job["distribution"], NULL_ROWS, CHANNELS, rng, features) for _ in range(job["null"])]
    lengths = 0, BEFORE, AFTER
    changed = {
        change: [draw_changed(change, lengths, CHANNELS, rng, features)[1] for _ in range(job["changed"])]
        for change in CHANGES[job["distribution"]]
    }
    return reference_ND, {"": null, **changed}


def _merge(results: Sequence[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    """Returns the streams of all references by change."""
    return {change: [stream for result in results for stream in result[change]] for change in results[0]}


def _make_row(
    change: str,
    window: int,
    run_lengths: tuple[float, float],
    ours: list[int | None],
    theirs: list[int | None],
) -> tuple[str, ...]:
    delays = {"alibi": power.get_delays(theirs)[1], "monitor": power.get_delays(ours)[1]}
    if not all(delays.values()):
        return (change, str(window), *(f"{one:,.0f}" for one in run_lengths), "–", "–", "–", "–")
    medians = {name: power.get_quantile(found, 0.5) for name, found in delays.items()}
    quantiles = [power.format_delay(power.get_quantile(found, 0.9), AFTER) for found in delays.values()]
    is_slower = medians["monitor"] > medians["alibi"]
    return (
        change,
        str(window),
        *(f"{one:,.0f}" for one in run_lengths),
        *(power.format_delay(median, AFTER) for median in medians.values()),
        " and ".join(quantiles),
        ("**yes**" if change in REQUIRED else "yes") if is_slower else "no",
    )
