"""Level where rows are not independent: how often streams of sessions, rotas or autocorrelated rows ever alarm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench.monitoring.distributions import make_rng
from bench.monitoring.jobs import Job, Jobs
from bench.monitoring.level import get_lower_bound, get_upper_bound
from bench.monitoring.sessions import DAY_ROWS, NIGHT_ROWS, NIGHT_SD, SCANNER_SD, SCANNERS, SEASON_SD, draw_dependent
from bench.monitoring.trajectories import run_stream
from bench.tables import Section, Table

ROWS, STREAMS, STREAMS_PER_JOB = 2000, 200, 5
ALPHA, EXCHANGEABLE_ALPHA = 0.01, 0.05
LIMIT = 0.03
"""Largest share of the streams that may alarm, pooled; and of a cell, beyond its lower 99 % bound."""
KINDS = (
    "runs 2", "runs 8", "runs 32", "rota 8", "rota 32", "night", "autocorrelation 0.05", "autocorrelation 0.1",
)  # fmt: skip
WIDE = ("runs 32", "autocorrelation 0.1")
WIDE_STREAMS = 30
SHOWN = ("runs 8 without strata", "runs 32 without strata", "autocorrelation 0.3", "season")
"""Beyond the assumption: shown without a limit."""
SHOWN_STREAMS = 60


def simulate_dependent(jobs: Jobs) -> Section:
    """Counts the alarms of streams without a change whose rows are not independent."""
    section = Section("dependent", f"Streams of {ROWS:,} rows without a change, α = {ALPHA:g}")
    limited = [(kind, reference, 32, STREAMS) for reference in (200, 1000) for kind in KINDS]
    limited += [(kind, 1000, 768, WIDE_STREAMS) for kind in WIDE]
    shown = [(kind, reference, 32, SHOWN_STREAMS) for kind in SHOWN for reference in (200, 1000)]
    rows, counts = [], []
    for cells, has_limit in ((limited, True), (shown, False)):
        for cell in cells:
            alarms = _run(jobs, cell, ALPHA)
            count = sum(alarm is not None for alarm in alarms)
            components = Counter(name for alarm in alarms if alarm is not None for name in alarm[1])
            lowest = get_lower_bound(count, len(alarms), 0.99)
            rows.append(_make_row(cell, alarms, components, lowest if has_limit else None))
            counts += [(count, len(alarms))] if has_limit else []
            section.records.append({"case": "dependent", "cell": cell, "alarms": alarms})
    columns = ("rows", "reference", "channels", "streams", "alarms", "first by", "lower 99 % bound")
    section.tables.append(Table("", columns, rows))
    pooled = sum(count for count, _ in counts) / sum(streams for _, streams in counts)
    highest = max(get_lower_bound(count, streams, 0.99) for count, streams in counts)
    section.sentences.append(
        f"Pooled over the rows with a bound, {pooled:.2%} alarm, {_judge(pooled)} {LIMIT:.0%}. The largest lower bound "
        f"of a cell is {highest:.2%}, {_judge(highest)} {LIMIT:.0%}."
    )
    exchangeable = _run(jobs, ("exchangeable", 200, 32, STREAMS), EXCHANGEABLE_ALPHA)
    count = sum(alarm is not None for alarm in exchangeable)
    lower, upper = (bound(count, len(exchangeable), 0.9995) for bound in (get_lower_bound, get_upper_bound))
    section.sentences.append(
        f"Independent rows at α = {EXCHANGEABLE_ALPHA:g}, reference 200: {count} of {len(exchangeable)} alarm, 99.9 % "
        f"interval {lower:.1%} to {upper:.1%}, which {'does not lie' if lower <= EXCHANGEABLE_ALPHA else '**lies**'} "
        f"above α."
    )
    section.sentences.append(
        f"{SCANNERS} scanners differ by {SCANNER_SD:g} SD in every channel; `runs L` are sessions of L studies of one "
        f"of them, `rota L` the same in a fixed order. `night`: {DAY_ROWS} studies of three scanners, then "
        f"{NIGHT_ROWS} of a fourth that differs by {NIGHT_SD:g} SD. `autocorrelation` is that of each channel from one "
        f"study to the next, and a season moves every channel by ±{SEASON_SD:g} SD within 365 studies. Reference and "
        "stream are one process. Strata are the scanners, unless the row says otherwise."
    )
    return section


def run_dependent(job: Job) -> list[tuple[int, list[str]] | None]:
    """Returns the row that alarms of each stream and the components that had reached their threshold."""
    kind, _, note = job["kind"].partition(" without ")
    found: list[tuple[int, list[str]] | None] = []
    for seed in range(job["seed"], job["seed"] + job["count"]):
        reference = job["reference"]
        rows_ND, strata = draw_dependent(kind, reference + job["rows"], job["channels"], make_rng(seed))
        named = None if note else (strata[:reference], strata[reference:])
        drawn = rows_ND[:reference], rows_ND[reference:]
        trajectory = run_stream(*drawn, seed, until_alpha=job["alpha"], strata=named)
        alarm = trajectory.get_alarm(job["alpha"])
        found.append(None if alarm is None else (alarm, trajectory.list_reached(job["alpha"])))
    return found


def _run(jobs: Jobs, cell: tuple[str, int, int, int], alpha: float) -> list[tuple[int, list[str]] | None]:
    kind, reference, channels, streams = cell
    count = jobs.count(streams)
    job = {"kind": kind, "reference": reference, "channels": channels, "rows": ROWS, "alpha": alpha}
    wanted: list[Job] = [
        {**job, "seed": jobs.seed + start, "count": min(STREAMS_PER_JOB, count - start)}
        for start in range(0, count, STREAMS_PER_JOB)
    ]
    return [alarm for alarms in jobs.run("dependent", run_dependent, wanted) for alarm in alarms]


def _make_row(
    cell: tuple[str, int, int, int],
    alarms: Sequence[object],
    components: Counter[str],
    lowest: float | None,
) -> tuple[str, ...]:
    kind, reference, channels, _ = cell
    count = sum(alarm is not None for alarm in alarms)
    first = ", ".join(f"{name} {times}" for name, times in components.most_common()) or "–"
    bound = "–" if lowest is None else f"{lowest:.1%}"
    return (kind, f"{reference:,}", str(channels), str(len(alarms)), f"{count / len(alarms):.1%}", first, bound)


def _judge(share: float) -> str:
    return "at most" if share <= LIMIT else "**above**"
