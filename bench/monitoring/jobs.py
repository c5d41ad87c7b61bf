"""Jobs in processes of one thread each, whose results are lines of a file, so that a run resumes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

Job = dict[str, Any]


@dataclass(frozen=True)
class Jobs:
    """Runs jobs and keeps their results.

    Attributes:
        folder: of the files.
        processes: at once.
        seed: of the first stream.
        scale: share of the streams to simulate.
        features: file of the hippocampus features; None where the volumes are missing.
    """

    folder: Path
    processes: int
    seed: int
    scale: float
    features: Path | None

    def count(self, streams: int) -> int:
        """Returns the number of streams at this scale, at least one."""
        return max(1, round(streams * self.scale))

    def run(self, section: str, function: Callable[[Job], Any], jobs: Sequence[Job]) -> list[Any]:
        """Returns the result of each job, from the section's file where it is known.

        Args:
            section: names the file.
            function: takes a job, which determines its result; it runs in another process.
            jobs: what `json` can write.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{section}.jsonl"
        results = read_results(path)
        keys = [get_key(job) for job in jobs]
        missing = {key: job for key, job in zip(keys, jobs, strict=True) if key not in results}
        with ProcessPoolExecutor(self.processes, get_context("spawn")) as pool, path.open("a") as file:
            running = {pool.submit(function, job): key for key, job in missing.items()}
            for done, future in enumerate(as_completed(running), start=1):
                key = running[future]
                results[key] = future.result()
                file.write("\n" + json.dumps({"job": json.loads(key), "result": results[key]}))
                file.flush()
                print(f"\r{section}: {done} of {len(missing)} jobs", end="", file=sys.stderr, flush=True)
        if missing:
            print(file=sys.stderr)
        return [results[key] for key in keys]


def get_key(job: Job) -> str:
    """Returns a job as canonical JSON."""
    return json.dumps(job, sort_keys=True)


def read_results(path: Path) -> dict[str, Any]:
    """Returns the results in a file by the key of their job, without a line that an interrupted run left incomplete."""
    results = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        results[get_key(entry["job"])] = entry["result"]
    return results
