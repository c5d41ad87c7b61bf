"""Why a pod waits or died, as one sentence with its remedy.

Knows the status of Jobs and pods as the Kubernetes API gives it (plain JSON); asks nobody and decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from vfmalign.finetuning.launchers.base import Exited
from vfmalign.finetuning.launchers.kubernetes.manifest import CONTAINER, Options

Json = dict[str, Any]

_IMAGE_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
     "RegistryUnavailable", "SignatureValidationFailed"}
)  # fmt: skip
_STARTING_REASONS = frozenset({"", "ContainerCreating", "PodInitializing"})
_START_FAILURES = frozenset({"StartError", "ContainerCannotRun"})
_EXIT_CODE = re.compile(r"exit code (\d+)")
_MAX_TEXT = 300


def condition(thing: Json, kind: str) -> Json | None:
    """The condition of this type that holds, of a Job or a pod."""
    for one in (thing.get("status") or {}).get("conditions") or ():
        if one.get("type") == kind and one.get("status") == "True":
            found: Json = one
            return found
    return None


def waiting(pods: Sequence[Json], options: Options) -> str:
    """What keeps the pods of a Job from training; empty where nothing does."""
    if not pods:
        return "no pod of its Job exists yet; if that lasts, a quota or an admission rule refuses it: describe the Job"
    return next((words for pod in pods if (words := _why_waiting(pod, options))), "")


def ended(job: Json, pods: Sequence[Json], options: Options) -> Exited:
    """How a failed Job ended: its exit code where anybody saw it, and what the platform says of it."""
    failed = condition(job, "Failed") or {}
    reason, said = failed.get("reason", ""), failed.get("message", "")
    pod, end = _first_failure(pods)
    code = end.get("exitCode")
    if code is None and (found := _EXIT_CODE.search(said)):
        code = int(found[1])
    if reason == "DeadlineExceeded":
        return Exited(
            code,
            f"an attempt took longer than {options.active_deadline_s} s; raise VFMALIGN_LAUNCHER__ACTIVE_DEADLINE_S or "
            "train fewer steps",
            "limit",
        )
    lost = next((one for each in pods if (one := condition(each, "DisruptionTarget"))), None)
    if lost is not None or "DisruptionTarget" in said:
        words = _clean(f"{lost.get('reason', '')}: {lost.get('message', '')}") if lost else _clean(said)
        return Exited(code, f"the cluster took its node or its place away ({words})", "platform")
    if end.get("reason") == "OOMKilled":
        limit = _memory_limit(pod)
        return Exited(
            code,
            f"training needed more memory than its container may have{limit} (OOMKilled); raise the memory limit in "
            f"PodTemplate {options.template}, or take a smaller batch",
        )
    if end.get("reason") in _START_FAILURES:
        return Exited(
            code, f"its container could not be started ({_clean(end.get('message', ''))}); mend image or command in "
            f"PodTemplate {options.template}",
        )  # fmt: skip
    if code is not None:
        return Exited(code)
    return Exited(None, f"its Job failed and its pods are gone ({_clean(f'{reason}: {said}')})")


def _why_waiting(pod: Json, options: Options) -> str:
    name, node = pod["metadata"]["name"], (pod.get("spec") or {}).get("nodeName", "")
    status = pod.get("status") or {}
    lost = condition(pod, "DisruptionTarget") or {}
    if status.get("reason") == "NodeLost" or status.get("phase") == "Unknown" or (
        lost.get("reason") == "DeletionByTaintManager" and pod["metadata"].get("deletionTimestamp")
    ):  # fmt: skip
        return (
            f"node {node} does not answer, and no other pod starts before this one has surely ended; bring the node "
            f"back, remove it from the cluster, or delete pod {name} by force"
        )
    if pod["metadata"].get("deletionTimestamp"):
        return f"pod {name} is ending"
    for one in status.get("conditions") or ():
        if one.get("type") == "PodScheduled" and one.get("status") == "False":
            return (
                f"no node takes its pod ({_clean(one.get('message') or one.get('reason', ''))}); free or add nodes, or "
                f"change resources, affinity and tolerations in PodTemplate {options.template}"
            )
    for container in _statuses(status):
        held = (container.get("state") or {}).get("waiting") or {}
        if words := _why_not_started(container, held, options):
            return words
    if status.get("phase") == "Pending":
        return f"its pod is being prepared on node {node}" if node else "its pod waits for the scheduler"
    return ""


def _why_not_started(container: Json, held: Json, options: Options) -> str:
    reason = held.get("reason", "")
    if reason in _STARTING_REASONS:
        return ""
    said = _clean(f"{reason}: {held['message']}" if held.get("message") else reason)
    if reason in _IMAGE_REASONS:
        return (
            f"image {container.get('image', '')} cannot be pulled ({said}); load it into the node or registry, or set "
            f"image and pull secret in PodTemplate {options.template}"
        )
    return (
        f"container {container.get('name', '')} cannot start ({said}); make the Secret, ConfigMap or volume that it "
        f"names, or mend PodTemplate {options.template}"
    )


def _statuses(status: Json) -> Iterator[Json]:
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def _first_failure(pods: Sequence[Json]) -> tuple[Json, Json]:
    """The pod whose training container failed first, and how: where several train together, the others follow it."""
    ends = []
    for pod in pods:
        for one in (pod.get("status") or {}).get("containerStatuses") or ():
            end = (one.get("state") or {}).get("terminated")
            if one.get("name") == CONTAINER and end and end.get("exitCode"):
                ends.append((end.get("finishedAt") or "", pod, end))
    if not ends:
        return {}, {}
    _, pod, end = min(ends, key=lambda found: found[0])
    return pod, end


def _memory_limit(pod: Json) -> str:
    for container in (pod.get("spec") or {}).get("containers") or ():
        if container.get("name") == CONTAINER:
            limit = ((container.get("resources") or {}).get("limits") or {}).get("memory", "")
            return f", {limit}" if limit else ""
    return ""


def _clean(text: str) -> str:
    """One line of bounded length."""
    line = " ".join(text.split()).strip(" .:")
    return line if len(line) <= _MAX_TEXT else f"{line[:_MAX_TEXT]}…"
