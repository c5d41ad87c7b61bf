"""Runs jobs as Kubernetes Jobs: one Job per attempt, named after job and attempt.

Who retries what: the Job controller replaces a pod whose node was taken away, everything else ends the Job, and the
supervisor starts the next attempt (docs/architecture.md). Knows what a Job's state means for the supervisor; `api`
knows the wire, `watching` the cache, `manifest` the shape, `pods` the reasons.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from vfmalign.core.domain.errors import DONE, TERMINATED, Conflict, Unavailable
from vfmalign.core.runtime import logs
from vfmalign.finetuning.launchers.base import Exited, Running
from vfmalign.finetuning.launchers.kubernetes import pods
from vfmalign.finetuning.launchers.kubernetes.api import Cluster, Refused, Unanswered
from vfmalign.finetuning.launchers.kubernetes.manifest import (
    ATTEMPT_LABEL,
    CONTAINER,
    JOB_ANNOTATION,
    JOB_LABEL,
    QUEUE_LABEL,
    SPEC_ANNOTATION,
    STOPPED_ANNOTATION,
    Options,
    job_label,
    job_name,
    manifest,
)
from vfmalign.finetuning.launchers.kubernetes.watch import JobCache

Json = dict[str, Any]

_FORBIDDEN, _NOT_FOUND, _EXISTS, _SERVER_ERROR = 403, 404, 409, 500
_LOG_LINES = 40
_GONE = "its Job is gone from the cluster, deleted by hand or after its time, and left no result"
_log = logs.get(__name__)


class KubernetesLauncher:
    """The launcher of a cluster.

    Args:
        cluster: the namespace where Jobs are made.
        options: what every Job is like.
        pods_every_s: how often at most the pods of one Job are asked for, in seconds.
    """

    def __init__(self, cluster: Cluster, options: Options, *, pods_every_s: float = 3.0) -> None:
        self._cluster = cluster
        self._options = options
        self._pods_every_s = pods_every_s
        self._seen_pods: dict[str, tuple[float, str]] = {}
        self._logged: set[str] = set()
        self._jobs = JobCache(cluster, JOB_LABEL)
        self._jobs.start()

    def launch(self, job: str, attempt: int, spec_uri: str) -> Running:
        """Creates the attempt's Job; one that is there already is this attempt, and is taken over.

        Raises:
            Conflict: another job's Job has the name.
            Unavailable: nothing was started.
        """
        self._sweep()
        self._end_others(job, attempt)
        body = self._manifest(job, attempt, spec_uri)
        name = body["metadata"]["name"]
        try:
            created = self._cluster.create_job(body)
        except Unanswered as error:
            return Running(None, str(error))  # it may be there: the next look tells
        except Refused as error:
            if error.status >= _SERVER_ERROR:
                return Running(None, str(error))
            if error.status != _EXISTS or (found := self._cluster.job(name)) is None:
                raise
            created = _own(found, job, spec_uri)
        self._jobs.add(created)
        return Running({"name": name}, "its Job is made; no pod of it runs yet")

    def observe(self, job: str, attempt: int, handle: dict[str, Any] | None) -> Running | Exited:
        """What the attempt's Job says; one that was not heard of is asked for before it counts as gone."""
        name = _name(job, attempt, handle)
        found = self._jobs.get(name)
        if found is None and (found := self._cluster.job(name)) is not None:
            self._jobs.add(found)
        if found is None:
            if _alive(self._left_of(name)):
                return Running({"name": name}, "its Job was deleted, and its pod is ending")
            return Exited(None, _GONE if handle else "")
        if _annotation(found, JOB_ANNOTATION) != job:
            return Exited(None)
        self._end_strays(job, attempt)
        seen = self._state(found, name)
        if isinstance(seen, Exited):
            self._seen_pods.pop(name, None)
        return seen

    def stop(self, job: str, attempt: int, handle: dict[str, Any] | None, *, force: bool) -> None:
        """Suspends the Job, which ends its pods in good order and keeps it, or deletes it.

        A Job of a queue is deleted either way: Kueue would let go again what we suspend.
        """
        name = _name(job, attempt, handle)
        found = self._jobs.get(name) or self._cluster.job(name)
        if found is None:
            return
        with _absent_is_fine():
            if force:
                self._cluster.delete_job(name, propagation="Background")
            elif QUEUE_LABEL in found["metadata"].get("labels", {}):
                self._cluster.delete_job(name, propagation="Foreground")
            else:
                stopped = {STOPPED_ANNOTATION: datetime.now(UTC).isoformat(timespec="seconds")}
                self._cluster.patch_job(name, {"metadata": {"annotations": stopped}, "spec": {"suspend": True}})

    def close(self) -> None:
        """Ends the watch; Jobs go on."""
        self._jobs.close()
        self._cluster.close()

    def _manifest(self, job: str, attempt: int, spec_uri: str) -> Json:
        name = self._options.template
        remedy = f"apply k8s/base, or set VFMALIGN_LAUNCHER__POD_TEMPLATE (now {name})"
        try:
            return manifest(self._cluster.pod_template(name), job, attempt, spec_uri, self._options)
        except Refused as error:
            if error.status != _NOT_FOUND:
                raise
            where = f"namespace {self._cluster.namespace}"
            raise Unavailable(f"{where} holds no PodTemplate {name}", subject=job, remedy=remedy) from error
        except LookupError as error:
            what = f"PodTemplate {name} has no container named {CONTAINER}"
            raise Unavailable(what, subject=job, remedy=remedy) from error

    def _state(self, found: Json, name: str) -> Running | Exited:
        if pods.condition(found, "Complete"):
            return Exited(DONE)
        if pods.condition(found, "Failed"):
            return self._failed(found, name)
        if self._has_stopped(found, name):
            return Exited(TERMINATED)  # as training does on SIGTERM; a result would have been found first
        return Running({"name": name}, self._state_words(found) or self._jobs.trouble)

    def _state_words(self, found: Json) -> str:
        """What a Job that has not ended waits for; empty while it trains."""
        metadata, spec, status = found["metadata"], found["spec"], found.get("status") or {}
        if _annotation(found, STOPPED_ANNOTATION):
            return "stopping: its pod writes its checkpoint"
        if metadata.get("deletionTimestamp"):
            return "its Job is being deleted: its pod is ending"
        if spec.get("suspend"):
            if queue := metadata.get("labels", {}).get(QUEUE_LABEL):
                return f"waiting for quota in the Kueue queue {queue}; `kubectl get workloads` says for which"
            return f"its Job was suspended by hand; let Job {metadata['name']} go on, or cancel the job"
        if (status.get("ready") or 0) >= self._options.nodes:
            return ""
        return self._why_waiting(metadata["name"])

    def _why_waiting(self, name: str) -> str:
        """What the pods say; asked for once in a while."""
        at, words = self._seen_pods.get(name, (float("-inf"), ""))
        if time.monotonic() - at >= self._pods_every_s:
            try:
                words = pods.waiting(self._pods(name), self._options)
            except Unavailable as error:
                words = str(error)
            self._seen_pods[name] = (time.monotonic(), words)
        return words

    def _has_stopped(self, found: Json, name: str) -> bool:
        """Whether a Job that we suspended has no pod left."""
        suspended = _annotation(found, STOPPED_ANNOTATION) and pods.condition(found, "Suspended")
        return bool(suspended) and not _alive(self._left_of(name))

    def _failed(self, found: Json, name: str) -> Running | Exited:
        left = self._left_of(name)
        if _alive(left):  # of a deadline, or of several that train together
            return Running({"name": name}, "its Job has failed, and its last pods are ending")
        seen = pods.ended(found, left, self._options)
        if name not in self._logged:
            self._logged.add(name)
            for pod in left:
                with contextlib.suppress(Unavailable):
                    tail = self._cluster.log(pod["metadata"]["name"], CONTAINER, _LOG_LINES)
                    _log.warning("pod_failed", job=_annotation(found, JOB_ANNOTATION), tail=tail)
        return seen

    def _pods(self, name: str) -> list[Json]:
        return self._cluster.pods(f"batch.kubernetes.io/job-name={name}")

    def _left_of(self, name: str) -> list[Json]:
        """The pods of a Job that ends; none where we may not look, for then nothing else could tell."""
        try:
            return self._pods(name)
        except Refused as error:
            if error.status != _FORBIDDEN:
                raise
            _log.warning("pods_hidden", error=str(error))
            return []

    def _end_others(self, job: str, attempt: int) -> None:
        """Makes sure that no other attempt lives when one starts; a later one does after a backup was restored.

        Raises:
            Unavailable: one does; it was told to end.
        """
        for other in self._living_others(job, attempt):
            with _absent_is_fine():
                self._cluster.delete_job(other["metadata"]["name"], propagation="Foreground")
            if not (_annotation(other, STOPPED_ANNOTATION) and pods.condition(other, "Suspended")):
                raise Unavailable("another attempt of it is still ending", subject=job, remedy="this one waits for it")

    def _end_strays(self, job: str, attempt: int) -> None:
        """Ends an attempt whose creation came through after another one had been started.

        What was heard may be old, and an attempt that has ended is kept for its log: so the API is asked first.
        """
        if not any(_is_stray(one) for one in _others(self._jobs.all(), job, attempt)):
            return
        with contextlib.suppress(Unavailable):
            for other in filter(_is_stray, self._living_others(job, attempt)):
                _log.warning("stray_attempt_deleted", job=job, name=other["metadata"]["name"])
                self._cluster.delete_job(other["metadata"]["name"], propagation="Background")

    def _living_others(self, job: str, attempt: int) -> list[Json]:
        jobs, _ = self._cluster.jobs(f"{JOB_LABEL}={job_label(job)}")
        return _others(jobs, job, attempt)

    def _sweep(self) -> None:
        """Deletes Jobs that we stopped once they were kept as long as ended ones, for no TTL applies to them."""
        oldest = datetime.now(UTC) - timedelta(seconds=self._options.ttl_s)
        for job in self._jobs.all():
            stopped = _annotation(job, STOPPED_ANNOTATION)
            with contextlib.suppress(Unavailable, ValueError):
                if stopped and datetime.fromisoformat(stopped) < oldest:
                    self._cluster.delete_job(job["metadata"]["name"], propagation="Background")


def _name(job: str, attempt: int, handle: dict[str, Any] | None) -> str:
    """The Job that was made; the handle lacks it where it is another launcher's, of before the settings changed."""
    return str((handle or {}).get("name") or job_name(job, attempt))


def _alive(found: list[Json]) -> bool:
    return any((pod.get("status") or {}).get("phase") not in {"Succeeded", "Failed"} for pod in found)


def _annotation(thing: Json, name: str) -> str:
    return str((thing["metadata"].get("annotations") or {}).get(name, ""))


def _own(found: Json, job: str, spec_uri: str) -> Json:
    """The Job that lies under our name, if it is this job's.

    Raises:
        Conflict: it is not.
    """
    if (_annotation(found, JOB_ANNOTATION), _annotation(found, SPEC_ANNOTATION)) != (job, spec_uri):
        raise Conflict(
            f"Job {found['metadata']['name']} of the cluster is not this job's",
            subject=job,
            remedy="choose another job id, or another namespace for each installation",
        )
    return found


def _others(jobs: list[Json], job: str, attempt: int) -> list[Json]:
    """Other attempts of a job that have not ended."""
    return [
        one
        for one in jobs
        if _annotation(one, JOB_ANNOTATION) == job
        and one["metadata"]["labels"].get(ATTEMPT_LABEL) != str(attempt)
        and not pods.condition(one, "Complete")
        and not pods.condition(one, "Failed")
    ]


def _is_stray(other: Json) -> bool:
    return not other["metadata"].get("deletionTimestamp")


@contextlib.contextmanager
def _absent_is_fine() -> Iterator[None]:
    try:
        yield
    except Refused as error:
        if error.status != _NOT_FOUND:
            raise
