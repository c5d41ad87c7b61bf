"""Cached list of the launcher's Jobs."""

from __future__ import annotations

import time

from vfmalign.core.domain.errors import Unavailable
from vfmalign.core.runtime import logs
from vfmalign.finetuning.launchers.kubernetes.api import Cluster
from vfmalign.finetuning.launchers.kubernetes.manifest import Json

_log = logs.get(__name__)


class JobList:
    """Jobs that match a label selector. If the last list is too old, the Jobs are listed again. Not thread-safe.

    Args:
        cluster: namespace of the Jobs.
        selector: label selector.
        every_s: minimum interval between two requests for the list, in seconds. If `Retry-After` in an answer asks for
            a longer interval, the longer interval applies.
    """

    def __init__(self, cluster: Cluster, selector: str, *, every_s: float) -> None:
        self._cluster = cluster
        self._selector = selector
        self._every_s = every_s
        self._due_s = float("-inf")
        self._jobs: dict[str, Json] = {}
        self._trouble = ""

    @property
    def trouble(self) -> str:
        """Error of the last request to list Jobs; empty after a success. After an error, the previous list is used."""
        return self._trouble

    def get(self, name: str) -> Json | None:
        """Returns a Job from the last list, or None. The API server may know newer Jobs."""
        self._refresh()
        return self._jobs.get(name)

    def all(self) -> list[Json]:
        """Returns every listed Job."""
        self._refresh()
        return list(self._jobs.values())

    def add(self, job: Json) -> None:
        """Adds a Job that the API has just returned."""
        self._jobs[job["metadata"]["name"]] = job

    def _refresh(self) -> None:
        if time.monotonic() < self._due_s:
            return
        wait_s = self._every_s
        try:
            self._jobs = {job["metadata"]["name"]: job for job in self._cluster.jobs(self._selector)}
            self._trouble = ""
        except Unavailable as error:
            self._trouble = str(error)
            _log.warning("jobs_not_listed", error=self._trouble)
            wait_s = max(wait_s, error.retry_after_s or 0.0)
        self._due_s = time.monotonic() + wait_s
