"""What ran when: rows of the database and the log of the training processes, and what must hold for them."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from vfmalign.database.database import Database


def assert_nothing_ran_twice(database: Database, log: Path, check_id: str) -> None:
    """Every stage and job of a check has finished once, and no two runs of one overlapped."""
    runs = _read(
        database,
        "SELECT stage, attempt, started_at, finished_at, outcome FROM stage_runs WHERE check_id = :id",
        check_id,
    )
    _assert_once(runs)
    query = (
        "SELECT job_id, attempt, job_attempts.started_at, job_attempts.finished_at, outcome FROM job_attempts "
        "JOIN jobs ON jobs.id = job_id WHERE check_id = :id"
    )
    attempts = _read(database, query, check_id)
    _assert_once(attempts)
    processes = _read_log(log)
    for job, spans in processes.items():
        _assert_apart(job, [(begin, end) for begin, end, _ in spans])
        assert sum(done for _, _, done in spans) == 1, f"{job} was trained to its end {spans}"
        assert len(spans) <= len(attempts[job]), f"{job} has a process that no attempt started"
    assert set(processes) == set(attempts)


def _assert_once(runs: dict[str, list[Any]]) -> None:
    for name, rows in runs.items():
        outcomes = [row.outcome for row in rows]
        assert outcomes.count("succeeded") == 1, (name, outcomes)
        assert set(outcomes) <= {"succeeded", "interrupted"}, (name, outcomes)
        assert outcomes[-1] == "succeeded", (name, outcomes)
        _assert_apart(name, [(row.started_at, row.finished_at) for row in rows])


def _assert_apart(name: str, spans: list[tuple[Any, Any]]) -> None:
    ordered = sorted(spans)
    for (_, end), (begin, _) in pairwise(ordered):
        assert end <= begin, f"two runs of {name} overlap: {ordered}"


def _read(database: Database, query: str, check_id: str) -> dict[str, list[Any]]:
    """Returns rows by their first column, in the order of attempts."""
    groups = defaultdict(list)
    with database.engine.connect() as connection:
        for row in connection.execute(sa.text(f"{query} ORDER BY attempt"), {"id": check_id}):
            groups[row[0]].append(row)
    return groups


def _read_log(log: Path) -> dict[str, list[tuple[float, float, bool]]]:
    """Returns the spans of every job's processes: first and last sign of life, and whether it was done."""
    times, done = defaultdict(list), set()
    for line in log.read_text().splitlines():
        job, pid, event, moment = line.split()
        times[job, pid].append(float(moment))
        if event == "done":
            done.add((job, pid))
    spans = defaultdict(list)
    for (job, pid), moments in times.items():
        spans[job].append((min(moments), max(moments), (job, pid) in done))
    return spans
