"""Level and power of the comparison of a site's first patients with a reference: `mmd --first`, and a monitor's."""

from __future__ import annotations

import numpy as np

from bench.monitoring.distributions import make_rng
from bench.monitoring.jobs import Job, Jobs
from bench.monitoring.level import get_lower_bound, get_upper_bound
from bench.monitoring.sessions import draw_dependent
from bench.monitoring.trajectories import run_stream
from bench.tables import Section, Table
from vfmalign.monitoring.sequential import Monitor, MonitorOptions

PAIRS, PAIRS_PER_JOB = 500, 50
CHANNELS, PATIENTS = 32, 100
SHIFTS = (0.0, 0.1, 0.2, 0.3)
REFERENCES, MONITOR_SHIFTS = (60, 100, 200, 500), (0.3, 0.5)
STREAMS, ROWS = 100, 1000
KINDS, OWN_REFERENCE = ("exchangeable", "runs 8", "runs 32"), 150
LEVEL, PERMUTATIONS = 0.05, 999


def simulate_first(jobs: Jobs) -> Section:
    """Counts the rejections of 500 pairs without a difference, and of pairs that differ in every channel."""
    section = Section("first", f"First patients: {PATIENTS} of a site beside {PATIENTS} of the reference")
    rows = []
    for shift in SHIFTS:
        count = jobs.count(PAIRS)
        wanted: list[Job] = [
            {"shift": shift, "seed": jobs.seed + start, "count": min(PAIRS_PER_JOB, count - start)}
            for start in range(0, count, PAIRS_PER_JOB)
        ]
        p_values = [p for found in jobs.run("first", run_first, wanted) for p in found]
        rejected = sum(p <= LEVEL for p in p_values)
        lower, upper = (bound(rejected, count, 0.9995) for bound in (get_lower_bound, get_upper_bound))
        interval = f"{lower:.1%} to {upper:.1%}"
        rows.append((f"{shift:g} SD", str(count), f"{rejected / count:.1%}", interval))
        section.records.append({"case": "first", "shift": shift, "rejected": rejected, "pairs": count})
    columns = ("shift of every channel", "pairs", f"p ≤ {LEVEL:g}", "99.9 % interval")
    section.tables.append(Table("", columns, rows))
    section.sentences.append(
        f"Gaussian rows with d = {CHANNELS}; a third of the reference fixes scale and bandwidth, and {PERMUTATIONS} "
        "permutations compare the others with the site."
    )
    section.tables.append(_measure_own_test(jobs))
    rows = []
    for shift in MONITOR_SHIFTS:
        for reference in REFERENCES:
            count = jobs.count(STREAMS)
            wanted = [
                {"shift": shift, "reference": reference, "seed": jobs.seed + start, "count": min(10, count - start)}
                for start in range(0, count, 10)
            ]
            alarms = [alarm for found in jobs.run("from-start", run_monitor, wanted) for alarm in found]
            within = [
                f"{np.mean([alarm is not None and alarm <= most for alarm in alarms]):.0%}" for most in (200, ROWS)
            ]
            rows.append((f"{shift:g} SD", str(reference), str(count), *within))
    columns = ("shift of every channel", "reference", "streams", "alarm within 200 rows", f"within {ROWS:,} rows")
    section.tables.append(Table("A monitor of a stream that differs from its first row on, α = 0.05", columns, rows))
    return section


def _measure_own_test(jobs: Jobs) -> Table:
    """Counts the rejections of a monitor's test of its first patients, whose labels are permuted within scanners."""
    rows = []
    for kind in KINDS:
        for shift, pairs in ((0.0, PAIRS), (0.3, STREAMS)):
            count = jobs.count(pairs)
            wanted: list[Job] = [
                {"kind": kind, "shift": shift, "seed": jobs.seed + start, "count": min(PAIRS_PER_JOB, count - start)}
                for start in range(0, count, PAIRS_PER_JOB)
            ]
            p_values = [p for found in jobs.run("first-patients", run_own_test, wanted) for p in found]
            rejected = sum(p <= LEVEL for p in p_values)
            lower, upper = (bound(rejected, count, 0.9995) for bound in (get_lower_bound, get_upper_bound))
            interval = f"{lower:.1%} to {upper:.1%}"
            rows.append((kind, f"{shift:g} SD", str(count), f"{rejected / count:.1%}", interval))
    columns = ("rows", "shift of every channel", "streams", f"p ≤ {LEVEL:g}", "99.9 % interval")
    title = f"A monitor's own test of its first {PATIENTS} patients, reference {OWN_REFERENCE}, strata are the scanners"
    return Table(title, columns, rows)


def run_own_test(job: Job) -> list[float]:
    """Returns the p-value of the first patients of each stream."""
    p_values = []
    for seed in range(job["seed"], job["seed"] + job["count"]):
        rows_ND, strata = draw_dependent(job["kind"], OWN_REFERENCE + PATIENTS, CHANNELS, make_rng(seed))
        rows_ND[OWN_REFERENCE:] += job["shift"]
        names = [f"{row}" for row in range(len(rows_ND))]
        (reference_ND, *known), (stream_ND, *new) = (
            (rows_ND[part], names[part], strata[part]) for part in (slice(OWN_REFERENCE), slice(OWN_REFERENCE, None))
        )
        options = MonitorOptions(alpha=0.1, first_patients=PATIENTS, seed=seed)
        monitor = Monitor(options, reference_ND, *known)
        monitor.observe(stream_ND, new[0], *new)
        p_values.append(monitor.epoch.first_p_value or 1.0)
    return p_values


def run_monitor(job: Job) -> list[int | None]:
    """Returns the row that alarms of each stream, which differs from its first row on."""
    alarms = []
    for seed in range(job["seed"], job["seed"] + job["count"]):
        rows_ND = make_rng(seed).standard_normal((job["reference"] + ROWS, CHANNELS))
        stream_ND = rows_ND[job["reference"] :] + job["shift"]
        trajectory = run_stream(rows_ND[: job["reference"]], stream_ND, seed, until_alpha=0.05)
        alarms.append(trajectory.get_alarm(0.05))
    return alarms


def run_first(job: Job) -> list[float]:
    """Returns the p-value of standardised features of each pair."""
    import torch

    from vfmalign.client.messages.mmd import ComputeOptions, Kernel, TestOptions
    from vfmalign.mmd.comparison.compare import compare
    from vfmalign.mmd.comparison.samples import Sample
    from vfmalign.mmd.engine.compute_config import ComputeConfig

    torch.set_num_threads(1)
    p_values = []
    for seed in range(job["seed"], job["seed"] + job["count"]):
        rng = make_rng(seed)
        x, y = rng.standard_normal((2, PATIENTS, CHANNELS)).astype(np.float32)
        options = ComputeOptions(
            pairing="independent",
            kernel=Kernel(family="gaussian", bandwidth_rule="reference_median"),
            test=TestOptions(permutations=PERMUTATIONS, seed=seed),
            first_groups=PATIENTS,
        )
        samples = Sample("x", {"": x}), Sample("y", {"": y + np.float32(job["shift"])})
        result = compare(*samples, None, options, ComputeConfig(torch.device("cpu")), measure_channels=False)
        standardised = result.layers[0].standardised
        p_value = None if standardised is None else standardised.p_value.value
        if p_value is None:
            raise RuntimeError("the comparison has no p-value")
        p_values.append(p_value)
    return p_values
