"""Explains in one sentence why a pod waits or ended. The input is the pod's status from the Kubernetes API."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vfmalign.core.domain.errors import PROCESS_LOST
from vfmalign.finetuning.launchers.base import Exited
from vfmalign.finetuning.launchers.kubernetes.manifest import CONTAINER, Json, Options

NO_POD = "NO_POD"
_IMAGE_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
     "RegistryUnavailable", "SignatureValidationFailed"}
)  # fmt: skip
_STARTING_REASONS = frozenset({"", "ContainerCreating", "PodInitializing"})
_START_FAILURES = frozenset({"StartError", "ContainerCannotRun"})
_EXIT_CODE = re.compile(r"exit code (\d+)")
_MAX_TEXT = 300


@dataclass(frozen=True)
class StartupStatus:
    """Whether the pods of a Job have started, and the reason if they have not.

    Attributes:
        reason: UPPER_SNAKE_CASE constant for the cause that prevents the start; empty if there is no such cause.
        message: the cause that prevents the start, and the remedy, in one sentence; empty if there is no such cause.
        started: whether all pods of the Job have started; None if this is currently unknown.
    """

    reason: str = ""
    message: str = ""
    started: bool | None = False


TRAINING = StartupStatus(started=True)


def condition(thing: Json, kind: str) -> Json | None:
    """Returns the condition of this type if a Job or a pod has it with the status True."""
    for one in (thing.get("status") or {}).get("conditions") or ():
        if one.get("type") == kind and one.get("status") == "True":
            matching: Json = one
            return matching
    return None


def waiting(pods: Sequence[Json], options: Options) -> StartupStatus:
    """Returns why the first waiting pod of a Job does not train yet. Training begins after all pods have started."""
    if (cause := next((cause for pod in pods if (cause := _why_waiting(pod, options))), None)) is not None:
        return cause
    phases = [(pod.get("status") or {}).get("phase") for pod in pods]
    if sum(phase in {"Running", "Succeeded"} for phase in phases) >= options.nodes:
        return TRAINING
    if "Failed" in phases:  # its Job is about to fail, or to replace the pod
        return StartupStatus(started=None)
    missing = "no pod of its Job exists yet" if not pods else f"{len(pods)} of its {options.nodes} pods exist"
    return StartupStatus(NO_POD, f"{missing}; if that lasts, a quota or an admission rule rejects it: describe the Job")


def refused(message: str, options: Options) -> StartupStatus:
    """Returns why a Job has no pods if the Job controller reports that the cluster rejects them.

    Args:
        message: note of the Event `FailedCreate` of the Job.
        options: settings of every Job.
    """
    cause = _clean(message.removeprefix("Error creating: "))
    if "exceeded quota" in message:
        return StartupStatus(
            "QUOTA_EXCEEDED",
            f"a ResourceQuota rejects its pods ({cause}); raise the quota, or wait for running pods to end",
        )
    return StartupStatus(
        "POD_REFUSED",
        f"the cluster refuses its pods ({cause}); change PodTemplate {options.template}, or the admission rule",
    )


def find_disruption(pods: Sequence[Json]) -> Json | None:
    """Returns the condition `DisruptionTarget` of the first pod that was preempted, evicted or lost its node."""
    return next((one for pod in pods if (one := condition(pod, "DisruptionTarget"))), None)


def ended(job: Json, pods: Sequence[Json], options: Options, disruption: Json | None = None) -> Exited:
    """Returns how a failed Job ended: its exit code, if it is known, and what the platform reported.

    Args:
        job: the Job.
        pods: its remaining pods.
        options: settings of every Job.
        disruption: condition `DisruptionTarget` of a pod, which may no longer exist. Kubernetes removes an evicted pod
            as soon as the pod has ended. The other pods of the Job stay.
    """
    failed = condition(job, "Failed") or {}
    reason, message = failed.get("reason", ""), failed.get("message", "")
    pod, end = _deciding_failure(pods, options)
    code = end.get("exitCode")
    if code is None and (match := _EXIT_CODE.search(message)):
        code = int(match[1])
    if reason == "DeadlineExceeded":
        return Exited(
            code,
            f"an attempt took longer than {options.active_deadline_s} s; raise VFMALIGN_LAUNCHER__ACTIVE_DEADLINE_S or "
            "train fewer steps",
            "limit",
        )
    lost = find_disruption(pods if options.together or not pod else [pod]) or disruption
    if lost is not None or "DisruptionTarget" in message:
        cause = _clean(f"{lost.get('reason', '')}: {lost.get('message', '')}") if lost else _clean(message)
        return Exited(code, f"the cluster removed its node or preempted it ({cause})", "platform")
    if end.get("reason") == "OOMKilled":
        limit = _memory_limit(pod)
        return Exited(
            code,
            f"training exceeded the memory limit of its container{limit} (OOMKilled); raise the limit in "
            f"PodTemplate {options.template}, or use a smaller batch",
            "memory",
        )
    if end.get("reason") in _START_FAILURES:
        return Exited(
            code, f"its container could not be started ({_clean(end.get('message', ''))}); fix image or command in "
            f"PodTemplate {options.template}",
        )  # fmt: skip
    if code is not None:
        return Exited(code)
    return Exited(None, f"its Job failed and its pods are gone ({_clean(f'{reason}: {message}')})")


def _why_waiting(pod: Json, options: Options) -> StartupStatus | None:
    name, node = pod["metadata"]["name"], (pod.get("spec") or {}).get("nodeName", "")
    status = pod.get("status") or {}
    lost = condition(pod, "DisruptionTarget") or {}
    if status.get("reason") == "NodeLost" or status.get("phase") == "Unknown" or (
        lost.get("reason") == "DeletionByTaintManager" and pod["metadata"].get("deletionTimestamp")
    ):  # fmt: skip
        return StartupStatus(
            "NODE_LOST",
            f"node {node} does not respond; its pod may still run, so no other pod starts; bring the "
            f"node back, remove it from the cluster, or delete pod {name} by force",
            started=None,
        )
    if pod["metadata"].get("deletionTimestamp"):
        return StartupStatus("POD_TERMINATING", f"pod {name} is ending", started=None)
    for one in status.get("conditions") or ():
        if one.get("type") == "PodScheduled" and one.get("status") == "False":
            said = _clean(one.get("message") or one.get("reason", ""))
            return StartupStatus(
                "UNSCHEDULABLE",
                f"its pod fits no node ({said}); free or add nodes, or change resources, affinity or tolerations in "
                f"PodTemplate {options.template}",
            )
    for container in _statuses(status):
        held = (container.get("state") or {}).get("waiting") or {}
        if (cause := _why_not_started(container, held, options)) is not None:
            return cause
    if status.get("phase") == "Pending":
        return StartupStatus(
            "POD_PENDING", f"its pod is being prepared on node {node}" if node else "its pod waits for the scheduler"
        )
    return None


def _why_not_started(container: Json, held: Json, options: Options) -> StartupStatus | None:
    reason = held.get("reason", "")
    if reason in _STARTING_REASONS:
        return None
    cause = _clean(f"{reason}: {held['message']}" if held.get("message") else reason)
    if reason in _IMAGE_REASONS:
        return StartupStatus(
            "IMAGE_PULL_FAILED",
            f"image {container.get('image', '')} cannot be pulled ({cause}); load it into the node or registry, or set "
            f"image and pull secret in PodTemplate {options.template}",
        )
    return StartupStatus(
        "CONTAINER_CANNOT_START",
        f"container {container.get('name', '')} cannot start ({cause}); create the Secret, ConfigMap or volume that it "
        f"names, or fix PodTemplate {options.template}",
    )


def _statuses(status: Json) -> Iterator[Json]:
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def _deciding_failure(pods: Sequence[Json], options: Options) -> tuple[Json, Json]:
    """Returns the pod that caused the end of the attempt, and how its training container ended.

    If several pods train together, this is the first pod to fail. A process that lost another one is never the cause,
    even if it seems to end first: times have a resolution of one second. If one pod trains alone, the Job controller
    may have replaced earlier pods, so the last pod decides.
    """
    ends = []
    for pod in pods:
        for one in (pod.get("status") or {}).get("containerStatuses") or ():
            end = (one.get("state") or {}).get("terminated")
            if one.get("name") == CONTAINER and end and end.get("exitCode"):
                ends.append((end["exitCode"] == PROCESS_LOST, end.get("finishedAt") or "", pod, end))
    if not ends:
        return {}, {}
    _, _, pod, end = (min if options.together else max)(ends, key=lambda end: end[:2])
    return pod, end


def _memory_limit(pod: Json) -> str:
    for container in (pod.get("spec") or {}).get("containers") or ():
        if container.get("name") == CONTAINER:
            limit = ((container.get("resources") or {}).get("limits") or {}).get("memory", "")
            return f", {limit}" if limit else ""
    return ""


def _clean(text: str) -> str:
    """Returns the text as one line of bounded length."""
    line = " ".join(text.split()).strip(" .:")
    return line if len(line) <= _MAX_TEXT else f"{line[:_MAX_TEXT]}…"
