"""Power: how many rows after a change raise the alarm."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.monitoring.distributions import draw_changed, make_rng
from bench.monitoring.hippocampus import ANOTHER_ENCODER
from bench.monitoring.jobs import Job, Jobs
from bench.monitoring.trajectories import ALPHAS, run_stream
from bench.tables import Section, Table

CHANNELS, REFERENCE, BEFORE, AFTER, WITHIN = 32, 200, 200, 800, 200
STREAMS, STREAMS_PER_JOB = 400, 10
GENERATED = (
    "shift 0.5",
    "shift 0.25",
    "sparse 0.25",
    "sparse 0.5",
    "sparse 1",
    "variance 1.5",
    "variance 0.7",
    "mixture 0.05",
    "mixture 0.2",
    "direction 1",
    "direction 2",
    "t3 shift 0.5",
)
REAL = (
    "blur 1 mm",
    "blur 1.5 mm",
    "noise 40 %",
    "bias field ±50 %",
    "scanner 0.1",
    "scanner 0.3",
    "scanner 1.0",
    ANOTHER_ENCODER,
)
REQUIRED = {
    "shift 0.5": (200, 0.95),
    "variance 1.5": (200, 0.95),
    "blur 1.5 mm": (200, 0.95),
    "sparse 0.5": (800, 0.95),
    "shift 0.25": (500, 0.85),
}
"""Rows within which a share of the streams must alarm after the change at α = 0.05."""
MOST_ROWS = {"sparse 1": 40, "shift 0.25": 220}
"""Largest median delay at α = 0.05."""
ENCODER_ROWS = 20


def simulate_power(jobs: Jobs) -> Section:
    """Measures the delay of 400 streams of every change."""
    section = Section("power", f"Power: reference {REFERENCE}, change after {BEFORE} rows")
    rows: list[tuple[str, ...]] = []
    for change in (*GENERATED, *(REAL if jobs.features else ())):
        results = jobs.run("power", run_power, get_jobs(jobs, change))
        alarms = [alarm for result in results for alarm in result]
        section.records.append({"case": "power", "change": change, "alarms": alarms})
        for index, alpha in enumerate(ALPHAS):
            early, delays = get_delays([alarm[index] for alarm in alarms])
            rows.append((change, f"{alpha:g}", *summarise(early, delays)))
            if index == 0 and change in REQUIRED:
                section.sentences.append(_judge(change, delays, *REQUIRED[change]))
            if index == 0 and change in MOST_ROWS and delays:
                median, most = get_quantile(delays, 0.5), MOST_ROWS[change]
                verdict = "at most" if median <= most else "**above**"
                section.sentences.append(f"{change}: median delay {format_delay(median)}, {verdict} {most} rows.")
            if change == ANOTHER_ENCODER:
                section.sentences.append(_judge(f"{change}, α = {alpha:g}", delays, ENCODER_ROWS, 1.0))
    columns = ("change", "α", "streams", "alarms before", f"within {WITHIN} rows", "median delay", "90 % quantile")
    section.tables.append(Table("", columns, rows))
    section.sentences.append(
        f"Generated rows are Gaussian with d = {CHANNELS} unless stated. `shift` and `t3 shift` move every channel by "
        "so many standard deviations, `sparse` three of them, `mixture` all by 1 SD in this share of the rows, "
        "`direction` the mean by this distance in one random direction, and `variance` multiplies the variance of "
        "every channel. Real features (d = 128) are of hippocampus volumes: blur is a "
        "Gaussian filter with this standard deviation, noise has this SD relative to the 98 % quantile, a bias field "
        "changes the gain along a random direction, and `scanner` is a new one beside three in this share of the rows: "
        "values by a power of 0.7 and blur of 1.5 mm, powers of 0.9, 1 and 1.1 before. Delays are in rows, of streams "
        f"without an alarm before the change, observed for {AFTER} rows after it."
    )
    return section


def get_jobs(jobs: Jobs, change: str) -> list[Job]:
    """Returns the jobs of one change."""
    count = jobs.count(STREAMS)
    features = str(jobs.features) if change in REAL else None
    return [
        {
            "change": change,
            "seed": jobs.seed + start,
            "count": min(STREAMS_PER_JOB, count - start),
            "features": features,
        }
        for start in range(0, count, STREAMS_PER_JOB)
    ]


def run_power(job: Job) -> list[list[int | None]]:
    """Returns the row that alarms of each stream and α."""
    alarms = []
    for seed in range(job["seed"], job["seed"] + job["count"]):
        drawn = draw_changed(job["change"], (REFERENCE, BEFORE, AFTER), CHANNELS, make_rng(seed), job["features"])
        trajectory = run_stream(*drawn, seed, until_alpha=min(ALPHAS))
        alarms.append([trajectory.get_alarm(alpha) for alpha in ALPHAS])
    return alarms


def get_delays(alarms: list[int | None]) -> tuple[int, list[float]]:
    """Returns how many streams alarm before the change, and the delay of each other, infinite without an alarm."""
    early = sum(alarm is not None and alarm <= BEFORE for alarm in alarms)
    delays = [np.inf if alarm is None else float(alarm - BEFORE) for alarm in alarms if alarm is None or alarm > BEFORE]
    return early, delays


def summarise(early: int, delays: list[float]) -> tuple[str, ...]:
    """Returns the cells of a row."""
    if not delays:
        return (str(early), str(early), "–", "–", "–")
    within = np.mean(np.array(delays) <= WITHIN)
    median, quantile = (format_delay(get_quantile(delays, level)) for level in (0.5, 0.9))
    return (str(early + len(delays)), str(early), f"{within:.1%}", median, quantile)


def get_quantile(delays: list[float], level: float) -> float:
    """Returns the smallest delay that at least this share of the streams does not exceed."""
    return sorted(delays)[int(np.ceil(level * len(delays) - 1e-9)) - 1]


def format_delay(delay: float, after: int = AFTER) -> str:
    """Formats a delay in rows, where so many are observed after the change."""
    return f"> {after}" if np.isinf(delay) else f"{delay:.0f}"


def _judge(title: str, delays: list[Any], within: int, required: float) -> str:
    if not delays:
        return f"{title}: every stream alarms before the change."
    share = float(np.mean(np.array(delays) <= within))
    verdict = "at least" if share >= required else "**below**"
    return f"{title}: {share:.1%} alarm within {within} rows, {verdict} {required:.0%}."
