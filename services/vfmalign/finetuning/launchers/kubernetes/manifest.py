"""What a Kubernetes Job of ours looks like: its name, its labels, and the manifest made of a PodTemplate.

Knows batch/v1 as plain JSON; talks to no cluster. The template passes through untouched but for what makes it this
job's, so that every field a platform team patches stays, also one that is newer than our client.
"""

from __future__ import annotations

import copy
import hashlib
import re
from dataclasses import dataclass
from typing import Any

from vfmalign.core.domain.errors import BAD_DATA, BAD_SPEC, UNEXPECTED

JOB_LABEL = "vfmalign.io/job"
ATTEMPT_LABEL = "vfmalign.io/attempt"
JOB_ANNOTATION = "vfmalign.io/job-id"
SPEC_ANNOTATION = "vfmalign.io/spec"
STOPPED_ANNOTATION = "vfmalign.io/stopped"
"""Set where we suspended the Job: Kueue and people suspend too, and mean that it shall wait."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
CONTAINER = "training"
SUBDOMAIN = "vfmalign-training"
"""The headless service by which the pods of one job find each other."""
RENDEZVOUS_PORT = 29400

_MAX_NAME = 52  # the pods of an Indexed Job add `-<index>` and five random characters, and stay host names of 63
_MAX_LABEL = 63
_DIGEST = 10


@dataclass(frozen=True)
class Options:
    """What the settings say of every Job.

    Attributes:
        template: name of the PodTemplate, for sentences.
        queue: Kueue's LocalQueue; empty for none.
        active_deadline_s: time that one attempt gets.
        ttl_s: how long an ended Job is kept.
        nodes, processes_per_node: pods of one job and training processes in each.
    """

    template: str = "vfmalign-training"
    queue: str = ""
    active_deadline_s: int = 604_800
    ttl_s: int = 86_400
    nodes: int = 1
    processes_per_node: int = 1


def job_name(job: str, attempt: int) -> str:
    """Name of the Job of one attempt: the same for ever, and valid whatever the id holds.

    An id that had to be changed or shortened ends in a digest of the whole.
    """
    prefix, suffix = "vfmalign-", f"-{attempt}"
    slug = re.sub(r"[^a-z0-9]+", "-", job).strip("-")
    return prefix + _shortened(job, slug, _MAX_NAME - len(prefix) - len(suffix)) + suffix


def job_label(job: str) -> str:
    """The job's id as a label's value, by which its Jobs and pods are found."""
    return _shortened(job, re.sub(r"[^A-Za-z0-9_.-]+", "-", job).strip("-_."), _MAX_LABEL)


def labels(job: str, attempt: int) -> dict[str, str]:
    """Labels of a Job and its pods."""
    return {
        "app.kubernetes.io/name": "vfmalign",
        "app.kubernetes.io/component": "training",
        "app.kubernetes.io/part-of": "vfmalign",
        "app.kubernetes.io/managed-by": "vfmalign-finetuning",
        JOB_LABEL: job_label(job),
        ATTEMPT_LABEL: str(attempt),
    }


def manifest(pod_template: dict[str, Any], job: str, attempt: int, spec_uri: str, options: Options) -> dict[str, Any]:
    """The Job of one attempt.

    Args:
        pod_template: a core/v1 PodTemplate as the API gives it, with a container named `training`.
        job: id of the job.
        attempt: which start of it.
        spec_uri: what the training process is told.
        options: what the settings say.

    Raises:
        LookupError: the template holds no container named `training`.
    """
    name = job_name(job, attempt)
    pod = copy.deepcopy(pod_template.get("template") or {})
    metadata = pod.setdefault("metadata", {})
    inherited = dict(metadata.get("labels") or {})
    ours = labels(job, attempt)
    # The template's own labels win over the general ones, for policies select by them, but never over the identity.
    metadata["labels"] = ours | inherited | {key: ours[key] for key in (JOB_LABEL, ATTEMPT_LABEL)}
    metadata["annotations"] = (metadata.get("annotations") or {}) | {JOB_ANNOTATION: job}
    metadata.pop("creationTimestamp", None)
    spec = pod.setdefault("spec", {})
    spec["restartPolicy"] = "Never"
    _command(spec, name, spec_uri, options)
    result: dict[str, Any] = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "labels": dict(metadata["labels"]),
            "annotations": {JOB_ANNOTATION: job, SPEC_ANNOTATION: spec_uri},
        },
        "spec": {
            "backoffLimit": 0,
            "completions": options.nodes,
            "parallelism": options.nodes,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules(together=_together(options))},
            "activeDeadlineSeconds": options.active_deadline_s,
            "ttlSecondsAfterFinished": options.ttl_s,
            "template": pod,
        },
    }
    if _together(options):
        result["spec"]["completionMode"] = "Indexed"
    if options.queue:
        result["metadata"]["labels"][QUEUE_LABEL] = options.queue
        result["spec"]["suspend"] = True  # Kueue lets it go once there is quota
    return result


def _together(options: Options) -> bool:
    """Whether several processes train one job."""
    return options.nodes * options.processes_per_node > 1


def _command(spec: dict[str, Any], name: str, spec_uri: str, options: Options) -> None:
    container = next((one for one in spec.get("containers") or () if one.get("name") == CONTAINER), None)
    if container is None:
        raise LookupError(CONTAINER)
    if not _together(options):
        container["args"] = [spec_uri]
        return
    spec["subdomain"] = SUBDOMAIN
    container["command"] = ["python", "-m", "vfmalign.training.launch"]
    container["args"] = [
        *("--nodes", str(options.nodes), "--processes", str(options.processes_per_node)),
        *("--node-rank", "$(JOB_COMPLETION_INDEX)", "--master", f"{name}-0.{SUBDOMAIN}:{RENDEZVOUS_PORT}"),
        spec_uri,
    ]


def _failure_rules(*, together: bool) -> list[dict[str, Any]]:
    """Who retries what: the Job controller a pod whose node was taken away, the supervisor the rest.

    The first rule that fits decides. With `backoffLimit: 0` a pod that no rule fits fails the Job as well.
    Where several pods train together, one that comes back finds no others: then the whole attempt is started again.
    """
    lost_node = {"action": "FailJob" if together else "Ignore"}
    codes = [UNEXPECTED, BAD_SPEC, BAD_DATA]
    return [
        lost_node | {"onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": codes}},
    ]


def _shortened(text: str, slug: str, limit: int) -> str:
    """`slug` where it says all that `text` does and fits, else its beginning and a digest of `text`."""
    if slug == text and len(slug) <= limit:
        return slug
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]
    kept = slug[: limit - _DIGEST - 1].rstrip("-_.")
    return f"{kept}-{digest}" if kept else digest
