"""Cache of the launcher's Jobs: one list, then a watch, in a thread.

A watch that the server ends continues from its last resource version; after 410 Gone or an error the Jobs are listed
again. The client's `SharedInformer` is not used, because it retries at once and forever whatever the API answers.
"""

from __future__ import annotations

import threading
import time

import kubernetes.watch

from vfmalign.core.domain.errors import Unavailable
from vfmalign.core.runtime import logs
from vfmalign.finetuning.launchers.kubernetes.api import Cluster, Refused
from vfmalign.finetuning.launchers.kubernetes.manifest import Json

_GONE = 410
_CLOSE_S = 5.0
_log = logs.get(__name__)


class JobCache:
    """Jobs of a label selector as the watch last reported them; safe to read from any thread.

    Args:
        cluster: namespace of the Jobs.
        selector: label selector.
        pause_s: seconds between two watches and after a first error; doubled for each further error.
        longest_pause_s: upper limit of the pause; a longer `Retry-After` is respected.
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
        """Starts listing and watching."""
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
        """Why the cache is not updated; empty while the watch runs."""
        return self._trouble

    def get(self, name: str) -> Json | None:
        """Returns a Job as last reported, or None; the API server may have a Job that was not reported yet."""
        with self._lock:
            return self._jobs.get(name)

    def all(self) -> list[Json]:
        """Returns every reported Job."""
        with self._lock:
            return list(self._jobs.values())

    def add(self, job: Json) -> None:
        """Adds a Job that the API has just returned, unless the watch has reported it already."""
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
                self._trouble = "internal error in the watch of Jobs; see the log of the finetuning service"
                _log.exception("watch_crashed")
            self._stop.wait(wait_s)

    def _list(self) -> str:
        jobs, version = self._cluster.jobs(self._selector)
        with self._lock:
            self._jobs = {job["metadata"]["name"]: job for job in jobs}
        self._trouble = ""
        return version

    def _follow(self, version: str) -> str:
        """Applies changes until the server ends the watch; returns the resource version from which to continue."""
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
