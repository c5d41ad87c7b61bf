"""Level: how often streams without a change ever alarm, beside two competitors on the same streams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from bench.monitoring import alibi, trustyai
from bench.monitoring.distributions import GENERATED, REAL, Array, draw, make_rng
from bench.monitoring.jobs import Job, Jobs
from bench.monitoring.trajectories import ALPHAS, run_stream
from bench.tables import Section, Table

REFERENCES = (60, 200, 1000)
STREAMS_PER_JOB = 4
TOLERANCE = 0.005
COMPETITORS = ("TrustyAI's schedule", "alibi-detect online")
COMPETITOR_STREAMS = 200
CHANNELS = 32


def simulate_level(jobs: Jobs) -> Section:
    """Counts the alarms of 2,000 streams of 5,000 rows at d = 32 and 500 of 1,000 rows at d = 768."""
    section = Section("level", "Level: streams without a change that ever alarm")
    for channels, rows, streams in ((CHANNELS, 5000, 2000), (768, 1000, 500)):
        cells = get_cells(jobs, channels, rows, streams)
        flat = [job for cell in cells for job in cell]
        results = dict(zip(map(id, flat), jobs.run("level", run_level, flat), strict=True))
        alarms = [[alarm for job in cell for alarm in results[id(job)]] for cell in cells]
        section.tables.append(_make_table(f"{rows:,} rows, d = {channels}", cells, alarms))
        section.sentences += [_judge(f"d = {channels}", alarms, index) for index in range(len(ALPHAS))]
        section.records += [
            {"case": "level", **cell[0], "alarms": found} for cell, found in zip(cells, alarms, strict=True)
        ]
    section.sentences.append(
        "The rows of a stream follow its reference. The real features keep their own width of 128. Their patients are "
        "drawn with replacement, reference and stream together; a patient who is drawn again counts as another one. "
        "Both α come from the same streams, with the share of α that a first epoch spends."
    )
    return section


def get_cells(jobs: Jobs, channels: int, rows: int, streams: int) -> list[list[Job]]:
    """Returns the jobs of every cell: its streams, a few at a time."""
    distributions = [*GENERATED, *([REAL] if jobs.features else [])]
    count = jobs.count(-(-streams // (len(REFERENCES) * (len(GENERATED) + 1))))
    cells = []
    for distribution in distributions:
        for reference in REFERENCES:
            cell = {"distribution": distribution, "reference": reference, "channels": channels, "rows": rows}
            cell["features"] = str(jobs.features) if distribution == REAL else None
            starts = range(0, count, STREAMS_PER_JOB)
            counts = [min(STREAMS_PER_JOB, count - start) for start in starts]
            seeds = [jobs.seed + start for start in starts]
            cells.append([{**cell, "seed": seed, "count": size} for seed, size in zip(seeds, counts, strict=True)])
    return cells


def run_level(job: Job) -> list[list[int | None]]:
    """Returns the row that alarms of each stream and α."""
    alarms = []
    for reference_ND, rows_ND, seed in _draw_streams(job):
        trajectory = run_stream(reference_ND, rows_ND, seed, until_alpha=min(ALPHAS))
        alarms.append([trajectory.get_alarm(alpha) for alpha in ALPHAS])
    return alarms


def simulate_competitors(jobs: Jobs) -> Section:
    """Counts the alarms of the competitors on 200 of the streams at d = 32."""
    section = Section("competitors", f"Level of competitors on {COMPETITOR_STREAMS} of the streams, d = {CHANNELS}")
    cells = get_cells(jobs, CHANNELS, 5000, COMPETITOR_STREAMS)
    columns = ("distribution", "reference rows", "streams", *COMPETITORS)
    rows = []
    for cell in cells:
        schedule = [alarm for alarms in jobs.run("trustyai", run_schedule, cell) for alarm in alarms]
        shares = [_format_share([alarm is not None for alarm in schedule])]
        online: Any = alibi.get_absent_reason()
        if not online:
            found = [alarm for alarms in jobs.run("alibi-level", run_alibi, cell) for alarm in alarms]
            shares.append(_format_share([alarm is not None for alarm in found]))
        else:
            shares.append("–")
            section.sentences = [f"alibi-detect: {online}."]
        section.records.append({"case": "competitors", **cell[0], "schedule": schedule, "shares": shares})
        rows.append((cell[0]["distribution"], str(cell[0]["reference"]), str(len(schedule)), *shares))
    section.tables.append(Table("", columns, rows))
    section.sentences += [trustyai.DESCRIPTION, alibi.DESCRIPTION]
    return section


def run_schedule(job: Job) -> list[int | None]:
    """Returns the row at which the schedule of permutation tests alarms, of each stream."""
    return [trustyai.get_alarm(reference, rows, seed) for reference, rows, seed in _draw_streams(job)]


def run_alibi(job: Job) -> list[int | None]:
    """Returns the row at which alibi-detect alarms, of each stream."""
    streams = [(reference, [rows]) for reference, rows, _ in _draw_streams(job)]
    return [alarms[0] for alarms in alibi.get_alarms(streams, window=alibi.LEVEL_WINDOW, seed=job["seed"])]


def _draw_streams(job: Job) -> list[tuple[Array, Array, int]]:
    """Draws reference, rows and seed of each stream of a job."""
    streams = []
    for seed in range(job["seed"], job["seed"] + job["count"]):
        reference, rng = job["reference"], make_rng(seed)
        rows_ND = draw(job["distribution"], reference + job["rows"], job["channels"], rng, job["features"])
        streams.append((rows_ND[:reference], rows_ND[reference:], seed))
    return streams


def _make_table(title: str, cells: Sequence[Sequence[Job]], alarms: Sequence[Sequence[Any]]) -> Table:
    rows = [
        (
            str(cell[0]["distribution"]),
            str(cell[0]["reference"]),
            str(len(found)),
            *(_format_share([alarm[index] is not None for alarm in found]) for index in range(len(ALPHAS))),
        )
        for cell, found in zip(cells, alarms, strict=True)
    ]
    columns = ("distribution", "reference rows", "streams", *(f"alarms at α = {alpha:g}" for alpha in ALPHAS))
    return Table(title, columns, rows)


def _judge(title: str, alarms: Sequence[Sequence[Any]], index: int) -> str:
    """Compares the pooled upper bound and each cell's lower bound with α."""
    alpha = ALPHAS[index]
    counts = [(sum(alarm[index] is not None for alarm in found), len(found)) for found in alarms]
    total, streams = (sum(values) for values in zip(*counts, strict=True))
    upper = get_upper_bound(total, streams, 0.95)
    highest = max(get_lower_bound(count, size, 0.999) for count, size in counts)
    return (
        f"{title}, α = {alpha:g}: {total} of {streams:,} streams alarm; the one-sided 95 % Clopper–Pearson bound is "
        f"{upper:.2%}, {'at most' if upper <= alpha + TOLERANCE else '**above**'} {alpha + TOLERANCE:.1%}. The largest "
        f"99.9 % lower bound of a cell is {highest:.2%}, {'at most' if highest <= alpha else '**above**'} α."
    )


def get_upper_bound(count: int, total: int, level: float) -> float:
    """Returns the one-sided upper Clopper–Pearson bound of a share."""
    return 1.0 if count == total else float(stats.beta.ppf(level, count + 1, total - count))


def get_lower_bound(count: int, total: int, level: float) -> float:
    """Returns the one-sided lower Clopper–Pearson bound of a share."""
    return 0.0 if count == 0 else float(stats.beta.ppf(1.0 - level, count, total - count + 1))


def _format_share(alarms: Sequence[bool]) -> str:
    return f"{np.mean(alarms):.1%}"
