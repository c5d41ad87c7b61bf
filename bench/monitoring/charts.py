"""Delay beside what a statistician would use: MEWMA, Kolmogorov–Smirnov tests, and a CUSUM that knows the change.

Every method has a statistic after each row. Its threshold is the one that so many streams without a change ever reach,
so that all have the same false alarms on independent rows.

Legend: M and N rows, P both, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.monitoring import power
from bench.monitoring.distributions import Array, draw_changed, get_log_likelihood_ratio, make_rng
from bench.monitoring.jobs import Job, Jobs
from bench.monitoring.power import BEFORE, CHANNELS, REFERENCE
from bench.monitoring.trajectories import run_stream
from bench.tables import Section, Table
from vfmalign.monitoring.sequential.thresholds import get_log_thresholds

AFTER = 800
FALSE_ALARMS = 0.05
NULL_STREAMS, STREAMS, STREAMS_PER_JOB = 400, 100, 10
CHANGES = (
    "sparse 0.25", "sparse 0.5", "sparse 1", "shift 0.25", "shift 0.5", "variance 1.5", "variance 0.7",
    "mixture 0.05", "mixture 0.2",
)  # fmt: skip
FORGETTING = 0.1
KS_ROWS, KS_STEP = 50, 5


def simulate_charts(jobs: Jobs) -> Section:
    """Compares the delays of all methods for every change."""
    title = f"Delay beside control charts, reference {REFERENCE}, d = {CHANNELS}, change after {BEFORE} rows"
    section = Section("charts", title)
    columns = ("change", *(f"{name}: {what}" for name in METHODS for what in ("found", "median delay")))
    rows = []
    without = _run(jobs, "shift 0", [name for name in METHODS if name != ORACLE], is_null=True)
    for change in CHANGES:
        # Without a change, only the CUSUM depends on what it looks for.
        oracle = _run(jobs, change, [ORACLE], is_null=True)
        null = [one | other for one, other in zip(without, oracle, strict=True)]
        changed = _run(jobs, change, list(METHODS), is_null=False)
        cells: list[str] = []
        for name in METHODS:
            highest = sorted(max(one[name]["values"], default=-np.inf) for one in null)
            threshold = highest[int(np.ceil((1.0 - FALSE_ALARMS) * len(highest))) - 1]
            alarms = [_find_alarm(one[name], threshold) for one in changed]
            _, delays = power.get_delays(alarms)
            median = power.get_quantile(delays, 0.5)
            cells += [f"{np.mean(np.isfinite(delays)):.0%}", "–" if np.isinf(median) else f"{median:.0f}"]
            section.records.append({"case": "charts", "change": change, "method": name, "alarms": alarms})
        rows.append((change, *cells))
    section.tables.append(Table("", columns, rows))
    section.sentences.append(
        f"Each threshold is one that {FALSE_ALARMS:.0%} of {NULL_STREAMS} streams of {BEFORE + AFTER:,} rows without a "
        f"change reach. `found`: within {AFTER} rows of the change, of streams without an alarm before it. MEWMA has "
        f"λ = {FORGETTING:g} and the reference's means and covariance. Kolmogorov–Smirnov compares each channel's last "
        f"{KS_ROWS} rows with the reference after every {KS_STEP} rows; its statistic is the smallest p-value, as "
        "a Bonferroni correction has it. The "
        "CUSUM knows both distributions: no method can be faster by much. `sparse X` moves 3 channels by X SD, and "
        "`mixture X` all channels of a share X of the rows by 1 SD."
    )
    return section


def run_charts(job: Job) -> list[dict[str, dict[str, list[float]]]]:
    """Returns the new maxima of every method's statistic on each stream."""
    found = []
    for seed in range(job["seed"], job["seed"] + job["count"]):
        lengths = (REFERENCE, BEFORE + AFTER, 0) if job["is_null"] else (REFERENCE, BEFORE, AFTER)
        drawn = draw_changed(job["change"], lengths, CHANNELS, make_rng(seed), None)
        found.append({name: _list_maxima(METHODS[name](*drawn, seed, job["change"])) for name in job["methods"]})
    return found


ORACLE = "CUSUM that knows the change"


def _run_monitor(reference_ND: Array, rows_ND: Array, seed: int, change: str) -> Array:
    limits = np.array(list(get_log_thresholds(FALSE_ALARMS, 1, CHANNELS).values()))
    excess: Array = (run_stream(reference_ND, rows_ND, seed).log_evidence_NC - limits).max(axis=1)
    return excess


def _run_mewma(reference_ND: Array, rows_ND: Array, seed: int, change: str) -> Array:
    precision_DD = np.linalg.inv(np.cov(reference_ND.T))
    mean_D = np.zeros(reference_ND.shape[1])
    values = []
    for row_D in rows_ND - reference_ND.mean(axis=0):
        mean_D = (1.0 - FORGETTING) * mean_D + FORGETTING * row_D
        values.append(mean_D @ precision_DD @ mean_D)
    return np.array(values)


def _run_ks(reference_ND: Array, rows_ND: Array, seed: int, change: str) -> Array:
    values = np.zeros(len(rows_ND))
    for stop in range(KS_ROWS, len(rows_ND) + 1, KS_STEP):
        window_ND = rows_ND[stop - KS_ROWS : stop]
        values[stop - 1] = get_largest_distance(reference_ND, window_ND)
    return values


def get_largest_distance(a_MD: Array, b_ND: Array) -> float:
    """Returns the largest Kolmogorov–Smirnov statistic of a channel, which has the smallest p-value."""
    order_PD = np.argsort(np.concatenate([a_MD, b_ND]), axis=0, kind="stable")
    step_PD = np.where(order_PD < len(a_MD), 1.0 / len(a_MD), -1.0 / len(b_ND))
    return float(np.abs(np.cumsum(step_PD, axis=0)).max())


def _run_cusum(reference_ND: Array, rows_ND: Array, seed: int, change: str) -> Array:
    total, values = 0.0, []
    for ratio in get_log_likelihood_ratio(change, rows_ND):
        total = max(0.0, total + float(ratio))
        values.append(total)
    return np.array(values)


METHODS: dict[str, Callable[[Array, Array, int, str], Array]] = {
    "monitor": _run_monitor,
    "MEWMA": _run_mewma,
    "Kolmogorov–Smirnov": _run_ks,
    ORACLE: _run_cusum,
}


def _list_maxima(values_N: Array) -> dict[str, list[float]]:
    maxima_N = np.maximum.accumulate(values_N)
    places = np.flatnonzero(np.diff(maxima_N, prepend=-np.inf) > 0.0)
    return {"rows": (places + 1).tolist(), "values": maxima_N[places].tolist()}


def _find_alarm(maxima: dict[str, list[float]], threshold: float) -> int | None:
    pairs: Any = zip(maxima["rows"], maxima["values"], strict=True)
    return next((int(row) for row, value in pairs if value > threshold), None)


def _run(jobs: Jobs, change: str, methods: list[str], *, is_null: bool) -> Sequence[dict[str, dict[str, list[float]]]]:
    streams, seed = jobs.count(NULL_STREAMS if is_null else STREAMS), jobs.seed + (100_000 if is_null else 0)
    job: Job = {"change": change, "methods": methods, "is_null": is_null}
    wanted: list[Job] = [
        job | {"seed": seed + start, "count": min(STREAMS_PER_JOB, streams - start)}
        for start in range(0, streams, STREAMS_PER_JOB)
    ]
    return [one for found in jobs.run("charts", run_charts, wanted) for one in found]
