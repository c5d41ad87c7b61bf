"""Events of the launcher's Jobs, which `kubectl describe job` shows: start, checkpoints, end.

An Event is named after its Job and reason, so that a restarted orchestrator adds none twice. Checkpoints are one Event
per attempt with a series, updated at most once a minute with the newest count, and before the Event of the job's end.
Events are written in a thread and are not retried: one that cannot be written is logged once, and jobs go on.
"""

from __future__ import annotations

import platform
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from vfmalign.core.domain.errors import Unavailable
from vfmalign.core.runtime import logs
from vfmalign.finetuning.launchers.base import JobEvent
from vfmalign.finetuning.launchers.kubernetes.api import Cluster, Refused
from vfmalign.finetuning.launchers.kubernetes.manifest import Json

_EXISTS = 409
_MAX_WAITING = 1_000
_MAX_NOTE = 1_024  # bytes; these two are limits of events.k8s.io/v1
_MAX_INSTANCE = 128
_CLOSE_S = 3.0
_log = logs.get(__name__)


class EventRecorder:
    """Writes Events in the background.

    Args:
        cluster: namespace of the Jobs.
        get_job: returns a Job by name as the watch last reported it, or None.
        series_every_s: shortest interval between two updates of one Event, in seconds.
    """

    def __init__(
        self, cluster: Cluster, get_job: Callable[[str], Json | None], *, series_every_s: float = 60.0
    ) -> None:
        self._cluster = cluster
        self._get_job = get_job
        self._series_every_s = series_every_s
        self._updated: dict[str, float] = {}  # when a series was last written; these two belong to the thread
        self._newest: dict[str, tuple[JobEvent, str]] = {}  # of a series, which waits for its next update
        self._waiting: queue.Queue[tuple[str, JobEvent, str] | None] = queue.Queue(_MAX_WAITING)
        self._has_logged = False
        self._thread = threading.Thread(target=self._run, name="kubernetes events", daemon=True)
        self._thread.start()

    def record(self, name: str, event: JobEvent) -> None:
        """Hands an Event of a Job to the thread; drops it where too many wait."""
        try:
            self._waiting.put_nowait((name, event, _now()))
        except queue.Full:
            self._log_once("too many Events wait")

    def close(self) -> None:
        """Writes what waits, if that is quick."""
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        closing = False
        while not closing:
            with suppress(queue.Empty):
                item = self._waiting.get(timeout=self._get_pause_s())
                closing = item is None
                if item is not None:
                    self._take(*item)
            for name in list(self._newest):
                if closing or self._get_due(name) <= time.monotonic():
                    self._update_series(name)

    def _take(self, name: str, event: JobEvent, moment: str) -> None:
        if event.reason == "Checkpointed":
            self._newest[name] = (event, moment)
            return
        if event.reason != "Started":  # the attempt has ended
            self._update_series(name)
            self._updated.pop(name, None)
        self._try_write(name, event, moment)

    def _get_due(self, name: str) -> float:
        return self._updated.get(name, float("-inf")) + self._series_every_s

    def _get_pause_s(self) -> float | None:
        """Returns the seconds until a series is due for its next update; None while there is nothing to update."""
        if not self._newest:
            return None
        return max(0.0, min(self._get_due(name) for name in self._newest) - time.monotonic())

    def _update_series(self, name: str) -> None:
        if name in self._newest:
            self._updated[name] = time.monotonic()
            self._try_write(name, *self._newest.pop(name))

    def _try_write(self, name: str, event: JobEvent, moment: str) -> None:
        try:
            self._write(name, event, moment)
        except Unavailable as error:
            self._log_once(str(error))
        except Exception:
            _log.exception("event_crashed", name=name)

    def _write(self, name: str, event: JobEvent, moment: str) -> None:
        job = self._get_job(name) or self._cluster.job(name)
        if job is None:  # deleted: nobody describes it any more
            return
        manifest = event_manifest(job, event, moment, self._cluster.namespace)
        try:
            self._cluster.create_event(manifest)
        except Refused as error:
            if error.status != _EXISTS:
                raise
            if "series" in manifest:
                self._cluster.patch_event(manifest["metadata"]["name"], {"series": manifest["series"]})

    def _log_once(self, error: str) -> None:
        if not self._has_logged:
            self._has_logged = True
            _log.warning("events_not_written", error=error)


def event_manifest(job: Json, event: JobEvent, moment: str, namespace: str) -> Json:
    """Returns an Event of a Job.

    Args:
        job: the Job.
        event: what happened.
        moment: when, in RFC 3339 with microseconds.
        namespace: of Job and Event.
    """
    metadata = job["metadata"]
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key.startswith("vfmalign.io/")}
    result = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name']}.{event.reason.lower()}",
            "namespace": namespace,
            "labels": labels,
        },
        "eventTime": moment,
        "type": "Warning" if event.warning else "Normal",
        "reason": event.reason,
        "action": "Training",
        "note": event.message.encode()[:_MAX_NOTE].decode(errors="ignore"),
        "reportingController": "vfmalign.io/finetuning",
        "reportingInstance": (platform.node() or "finetuning")[:_MAX_INSTANCE],
        "regarding": {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "namespace": namespace,
            "name": metadata["name"],
            "uid": metadata.get("uid", ""),
        },
    }
    if event.count > 1:
        result["series"] = {"count": event.count, "lastObservedTime": moment}
    return result


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
