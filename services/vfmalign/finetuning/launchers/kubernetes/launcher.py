"""Launcher for Kubernetes. Creates one Job per attempt, named after the job and the attempt.

The Job controller replaces a pod only if its node was removed. Any other failure ends the Job, and the supervisor
starts the next attempt (docs/architecture.md).

Three races are handled here:
- The API server may create a Job although its answer gets lost. A second request to create this Job then fails with
  409. The launcher adopts the Job if its annotations name this job and spec.
- The list of Jobs may be up to 5 s old. The launcher therefore reads a Job again before it treats the Job as gone or
  deletes it as a stray.
- A restored database backup may start an earlier attempt while a later attempt still runs. Before an attempt starts,
  the launcher deletes all other attempts of the job, so two attempts never train at once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from vfmalign.core.domain.errors import DONE, TERMINATED, Conflict, Unavailable
from vfmalign.core.runtime import logs
from vfmalign.finetuning.launchers.base import (
    UNKNOWN_ORIGIN,
    Confirm,
    Exited,
    Handle,
    Origin,
    Running,
    lead_always,
)
from vfmalign.finetuning.launchers.kubernetes import pods
from vfmalign.finetuning.launchers.kubernetes.api import Cluster, Refused, Unanswered
from vfmalign.finetuning.launchers.kubernetes.listing import JobList
from vfmalign.finetuning.launchers.kubernetes.manifest import (
    ATTEMPT_LABEL,
    CONTAINER,
    JOB_ANNOTATION,
    JOB_LABEL,
    JOB_NAME_LABEL,
    QUEUE_LABEL,
    SPEC_ANNOTATION,
    STOPPED_ANNOTATION,
    Json,
    Options,
    job_name,
    label_value,
    manifest,
)

_FORBIDDEN, _NOT_FOUND, _EXISTS, _SERVER_ERROR = 403, 404, 409, 500
_LOG_LINES = 40
_GONE = "its Job no longer exists in the cluster and left no result; it was deleted by hand or after its time to live"
_log = logs.get(__name__)


class KubernetesLauncher:
    """The launcher of a cluster.

    Args:
        cluster: cluster and namespace in which Jobs are created.
        options: settings of every Job.
        jobs_every_s: minimum interval between two requests that list the Jobs, in seconds.
        pods_every_s: minimum interval between two requests for the pods of one Job, in seconds.
    """

    def __init__(
        self, cluster: Cluster, options: Options, *, jobs_every_s: float = 5.0, pods_every_s: float = 3.0
    ) -> None:
        self._cluster = cluster
        self._options = options
        self._pods_every_s = pods_every_s
        self._seen_pods: dict[str, tuple[float, pods.StartupStatus]] = {}
        self._logged: set[str] = set()
        self._disruptions: dict[str, Json] = {}
        self._jobs = JobList(cluster, JOB_LABEL, every_s=jobs_every_s)

    def launch(
        self,
        job: str,
        attempt: int,
        spec_uri: str,
        confirm: Confirm = lead_always,
        *,
        origin: Origin = UNKNOWN_ORIGIN,
    ) -> Running:
        """Creates the Job of the attempt. If this Job already exists, adopts it.

        Raises:
            Conflict: the Job with this name belongs to another job.
            Unavailable: nothing was started.
        """
        self._sweep()
        self._end_others(job, attempt)
        body = self._manifest(job, attempt, spec_uri, origin)
        name = body["metadata"]["name"]
        confirm()
        try:
            created = self._cluster.create_job(body)
        except Unanswered as error:
            return Running(None, str(error), error.reason, started=False)  # it may exist: `observe` finds out
        except Refused as error:
            if error.status >= _SERVER_ERROR:
                return Running(None, str(error), error.reason, started=False)
            if error.status != _EXISTS or (existing := self._cluster.job(name)) is None:
                raise
            created = _own(existing, job, spec_uri)
        self._jobs.add(created)
        return Running({"name": name}, "its Job was created, but no pod runs yet", pods.NO_POD, started=False)

    def observe(self, job: str, attempt: int, handle: Handle | None) -> Running | Exited:
        """Returns the state of the attempt's Job.

        If the list does not contain the Job, reads the Job before treating it as gone.
        """
        name = _name(job, attempt, handle)
        resource = self._jobs.get(name)
        if resource is None and (resource := self._cluster.job(name)) is not None:
            self._jobs.add(resource)
        if resource is None:
            if _alive(self._get_remaining_pods(name)):
                return Running({"name": name}, "its Job was deleted, and its pod is ending", "POD_TERMINATING", None)
            return Exited(None, _GONE if handle else "")
        if _annotation(resource, JOB_ANNOTATION) != job:
            return Exited(None)
        self._end_strays(job, attempt)
        seen = self._state(resource, name)
        if isinstance(seen, Exited):
            self._seen_pods.pop(name, None)
            self._disruptions.pop(name, None)
        return seen

    def stop(self, job: str, attempt: int, handle: Handle | None, *, force: bool) -> None:
        """Suspends the Job, so that its pods write a checkpoint. If `force` is true, deletes the Job instead.

        A Job in a Kueue queue is always deleted, because Kueue would resume it after the suspension.
        """
        name = _name(job, attempt, handle)
        resource = self._jobs.get(name) or self._cluster.job(name)
        if resource is None:
            return
        with _absent_is_fine():
            if force:
                self._cluster.delete_job(name, propagation="Background")
            elif QUEUE_LABEL in resource["metadata"].get("labels", {}):
                self._cluster.delete_job(name, propagation="Foreground")
            else:
                stopped = {STOPPED_ANNOTATION: datetime.now(UTC).isoformat(timespec="seconds")}
                patch = {"metadata": {"annotations": stopped}, "spec": {"suspend": True}}
                self._jobs.add(self._cluster.patch_job(name, patch))

    def log_command(self, job: str, attempt: int) -> str:
        """Returns the `kubectl logs` command for all pods of the attempt's Job."""
        name = job_name(job, attempt)
        if self._options.nodes > 1:  # kubectl shows only one pod of `job/NAME`
            which = ["--selector", f"{JOB_NAME_LABEL}={name}", "--prefix", "--tail=-1"]
        else:
            which = [f"job/{name}"]
        return " ".join(["kubectl", "logs", "--namespace", self._cluster.namespace, *which, "--all-containers"])

    def close(self) -> None:
        """Closes the connections; Jobs continue."""
        self._cluster.close()

    def _manifest(self, job: str, attempt: int, spec_uri: str, origin: Origin) -> Json:
        name = self._options.template
        remedy = f"apply k8s/base/training, or set VFMALIGN_LAUNCHER__NAMESPACE and __POD_TEMPLATE (now {name})"
        try:
            return manifest(self._cluster.pod_template(name), job, attempt, spec_uri, self._options, origin=origin)
        except Refused as error:
            if error.status != _NOT_FOUND:
                raise
            where = f"namespace {self._cluster.namespace}"
            raise Unavailable(f"{where} holds no PodTemplate {name}", subject=job, remedy=remedy) from error
        except LookupError as error:
            what = f"PodTemplate {name} has no container named {CONTAINER}"
            raise Unavailable(what, subject=job, remedy=remedy) from error

    def _state(self, resource: Json, name: str) -> Running | Exited:
        if pods.condition(resource, "Complete"):
            return Exited(DONE)
        if pods.condition(resource, "Failed"):
            return self._failed(resource, name)
        if self._has_stopped(resource, name):
            # The exit code of training after SIGTERM. The supervisor looks for a result before it reads this code.
            return Exited(TERMINATED)
        cause = self._cause_of_waiting(resource)
        if not cause.message and self._jobs.trouble:
            cause = pods.StartupStatus("API_UNAVAILABLE", self._jobs.trouble, started=None)
        return Running({"name": name}, cause.message, cause.reason, cause.started)

    def _cause_of_waiting(self, resource: Json) -> pods.StartupStatus:
        """Returns why an unfinished Job waits; empty while it trains."""
        metadata, spec, status = resource["metadata"], resource["spec"], resource.get("status") or {}
        if _annotation(resource, STOPPED_ANNOTATION):
            return pods.StartupStatus("STOPPING", "stopping: its pod writes its checkpoint", started=None)
        if metadata.get("deletionTimestamp"):
            return pods.StartupStatus("POD_TERMINATING", "its Job is being deleted: its pod is ending", started=None)
        if spec.get("suspend"):
            if queue := metadata.get("labels", {}).get(QUEUE_LABEL):
                return pods.StartupStatus(
                    "WAITING_FOR_QUOTA",
                    f"waiting for quota in the Kueue queue {queue}; `kubectl get workloads` shows which",
                )
            return pods.StartupStatus(
                "SUSPENDED", f"its Job was suspended by hand; resume Job {metadata['name']}, or cancel the job"
            )
        if (status.get("ready") or 0) >= self._options.nodes:
            return pods.TRAINING
        return self._why_pods_wait(metadata["name"])

    def _why_pods_wait(self, name: str) -> pods.StartupStatus:
        """Returns why the pods wait. They are read at most every `pods_every_s` seconds."""
        read_at, cause = self._seen_pods.get(name, (float("-inf"), pods.StartupStatus()))
        if time.monotonic() - read_at >= self._pods_every_s:
            try:
                cause = pods.waiting(self._pods(name), self._options)
                if cause.reason == pods.NO_POD:
                    cause = self._why_no_pod(name) or cause
            except Unavailable as error:
                cause = pods.StartupStatus(error.reason, str(error), started=None)
            self._seen_pods[name] = (time.monotonic(), cause)
        return cause

    def _why_no_pod(self, name: str) -> pods.StartupStatus | None:
        """Returns why no pod of a Job may be created; None if this is unknown or RBAC forbids reading Events."""
        try:
            messages = self._cluster.refused_pods(name)
        except Refused as error:
            if error.status != _FORBIDDEN:
                raise
            _log.warning("events_hidden", error=error)
            return None
        return pods.refused(messages[-1], self._options) if messages else None

    def _has_stopped(self, resource: Json, name: str) -> bool:
        """Returns whether a Job that `stop` suspended has no pod left."""
        suspended = _annotation(resource, STOPPED_ANNOTATION) and pods.condition(resource, "Suspended")
        return bool(suspended) and not _alive(self._get_remaining_pods(name))

    def _failed(self, resource: Json, name: str) -> Running | Exited:
        left = self._get_remaining_pods(name)
        # After a deadline, or if several pods train together, pods outlive the failure of their Job. Starting the next
        # attempt before they end would let two attempts write the same checkpoint.
        if _alive(left):
            return Running({"name": name}, "its Job has failed, and its last pods are ending", "POD_TERMINATING", None)
        seen = pods.ended(resource, left, self._options, self._disruptions.get(name))
        if name not in self._logged:
            self._logged.add(name)
            for pod in left:
                with contextlib.suppress(Unavailable):
                    tail = self._cluster.log(pod["metadata"]["name"], CONTAINER, _LOG_LINES)
                    _log.warning("pod_failed", job=_annotation(resource, JOB_ANNOTATION), tail=tail)
        return seen

    def _pods(self, name: str) -> list[Json]:
        """Returns the pods of a Job. Remembers a disruption that ends an attempt of several pods."""
        listed = self._cluster.pods(f"{JOB_NAME_LABEL}={name}")
        if self._options.together and (disruption := pods.find_disruption(listed)) is not None:
            self._disruptions[name] = disruption
        return listed

    def _get_remaining_pods(self, name: str) -> list[Json]:
        """Returns the pods of an ending Job; none if RBAC forbids reading pods: the Job's state then decides."""
        try:
            return self._pods(name)
        except Refused as error:
            if error.status != _FORBIDDEN:
                raise
            _log.warning("pods_hidden", error=error)
            return []

    def _end_others(self, job: str, attempt: int) -> None:
        """Deletes other attempts before one starts; after a backup was restored, a later attempt may still run.

        Raises:
            Unavailable: another attempt is still ending.
        """
        for other in self._living_others(job, attempt):
            with _absent_is_fine():
                self._cluster.delete_job(other["metadata"]["name"], propagation="Foreground")
            if not (_annotation(other, STOPPED_ANNOTATION) and pods.condition(other, "Suspended")):
                raise Unavailable("another attempt is still ending", subject=job, remedy="this attempt starts after it")

    def _end_strays(self, job: str, attempt: int) -> None:
        """Deletes attempts that the API server created after a later attempt was started.

        The list may be old. Jobs are read again before one is deleted: an attempt that failed
        meanwhile would otherwise be removed together with its log.
        """
        if not any(_is_stray(one) for one in _others(self._jobs.all(), job, attempt)):
            return
        with contextlib.suppress(Unavailable):
            for other in filter(_is_stray, self._living_others(job, attempt)):
                _log.warning("stray_attempt_deleted", job=job, name=other["metadata"]["name"])
                self._cluster.delete_job(other["metadata"]["name"], propagation="Background")

    def _living_others(self, job: str, attempt: int) -> list[Json]:
        return _others(self._cluster.jobs(f"{JOB_LABEL}={label_value(job)}"), job, attempt)

    def _sweep(self) -> None:
        """Deletes suspended Jobs after the TTL, because Kubernetes applies it to finished Jobs only."""
        oldest = datetime.now(UTC) - timedelta(seconds=self._options.ttl_s)
        for job in self._jobs.all():
            stopped = _annotation(job, STOPPED_ANNOTATION)
            with contextlib.suppress(Unavailable, ValueError):
                if stopped and datetime.fromisoformat(stopped) < oldest:
                    self._cluster.delete_job(job["metadata"]["name"], propagation="Background")


def _name(job: str, attempt: int, handle: Handle | None) -> str:
    """Returns the name of the attempt's Job. A handle from another launcher (settings changed) has no name."""
    return str((handle or {}).get("name") or job_name(job, attempt))


def _alive(listed: list[Json]) -> bool:
    return any((pod.get("status") or {}).get("phase") not in {"Succeeded", "Failed"} for pod in listed)


def _annotation(thing: Json, name: str) -> str:
    return str((thing["metadata"].get("annotations") or {}).get(name, ""))


def _own(resource: Json, job: str, spec_uri: str) -> Json:
    """Returns a Job if its annotations name this job and spec.

    Raises:
        Conflict: the annotations name another job or spec.
    """
    if (_annotation(resource, JOB_ANNOTATION), _annotation(resource, SPEC_ANNOTATION)) != (job, spec_uri):
        raise Conflict(
            f"Job {resource['metadata']['name']} of the cluster belongs to another job",
            subject=job,
            remedy="choose another job id, or another namespace for each installation",
        )
    return resource


def _others(jobs: list[Json], job: str, attempt: int) -> list[Json]:
    """Returns other attempts of a job that have not ended."""
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
