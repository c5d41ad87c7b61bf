"""The Jobs of ours as the API last told: one list, then one watch, in a thread of their own.

Knows resource versions and how a watch ends: by itself (go on from where it was), by 410 Gone or an error (list
again). Knows nothing of what a Job means. The client's `SharedInformer` was not taken: it asks again at once, for ever,
whatever the API answers.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import kubernetes.watch

from vfmalign.core.domain.errors import Unavailable
from vfmalign.core.runtime import logs
from vfmalign.finetuning.launchers.kubernetes.api import Cluster, Refused

Json = dict[str, Any]

_GONE = 410
_CLOSE_S = 5.0
_log = logs.get(__name__)


class JobCache:
    """What is known of the Jobs of a label selector; safe to read from any thread.

    Args:
        cluster: where they are.
        selector: label selector.
        pause_s: between two watches, and after a first error; doubled for each further one.
        longest_pause_s: at most; a `Retry-After` counts more.
    """

    def __init__(self, cluster: Cluster, selector: str, *, pause_s: float = 0.5, longest_pause_s: float = 30.0) -> None:
        self._cluster = cluster
        self._selector = selector
        self._pause_s = pause_s
        self._longest_pause_s = longest_pause_s
        self._jobs: dict[str, Json] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._watch: kubernetes.watch.Watch | None = None
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="kubernetes jobs", daemon=True)

    def start(self) -> None:
        """Begins to list and watch."""
        self._thread.start()

    def close(self) -> None:
        """Ends the watch."""
        self._stop.set()
        end = time.monotonic() + _CLOSE_S
        while self._thread.is_alive() and time.monotonic() < end:
            if self._watch is not None:
                self._watch.stop()
            self._thread.join(0.1)

    @property
    def trouble(self) -> str:
        """Why nothing new is heard; empty while the watch runs."""
        return self._trouble

    def get(self, name: str) -> Json | None:
        """A Job as last heard of. None says that it was not heard of, which is no proof that there is none."""
        with self._lock:
            return self._jobs.get(name)

    def all(self) -> list[Json]:
        """Every Job heard of."""
        with self._lock:
            return list(self._jobs.values())

    def add(self, job: Json) -> None:
        """Takes in a Job that the API has just answered with, unless the watch was quicker."""
        with self._lock:
            self._jobs.setdefault(job["metadata"]["name"], job)

    def _run(self) -> None:
        version, pause_s = "", self._pause_s
        while not self._stop.is_set():
            try:
                if not version:
                    version = self._list()
                version = self._follow(version)
                wait_s = pause_s = self._pause_s
            except Unavailable as error:
                version = ""
                if self._stop.is_set():
                    return
                if isinstance(error, Refused) and error.status == _GONE:
                    _log.info("watch_expired")
                    wait_s = pause_s
                else:
                    self._trouble = str(error)
                    _log.warning("watch_broken", error=str(error))
                    wait_s = max(pause_s, error.retry_after_s or 0.0)
                pause_s = min(2 * pause_s, self._longest_pause_s)
            except Exception:
                version, wait_s = "", self._longest_pause_s
                self._trouble = "the watch of Jobs met a fault of ours; the service's log has the trace"
                _log.exception("watch_crashed")
            self._stop.wait(wait_s)

    def _list(self) -> str:
        jobs, version = self._cluster.jobs(self._selector)
        with self._lock:
            self._jobs = {job["metadata"]["name"]: job for job in jobs}
        self._trouble = ""
        return version

    def _follow(self, version: str) -> str:
        """Takes in what changes until the server ends the watch; returns the version from which to go on."""
        self._watch = kubernetes.watch.Watch()
        for kind, job in self._cluster.watch_jobs(self._selector, version, self._watch):
            if self._stop.is_set():
                break
            metadata = job["metadata"]
            version = metadata.get("resourceVersion") or version
            with self._lock:
                if kind == "DELETED":
                    self._jobs.pop(metadata["name"], None)
                elif kind in {"ADDED", "MODIFIED"}:
                    self._jobs[metadata["name"]] = job
        return version
