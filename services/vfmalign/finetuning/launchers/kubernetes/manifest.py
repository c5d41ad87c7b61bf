"""Name, labels and manifest of the Kubernetes Job of one attempt, built from a PodTemplate.

Objects are plain JSON. Only those fields of the template that identify the job are changed. All other fields, such as
patches of a platform team, are kept, even if they are newer than the client.
"""

from __future__ import annotations

import copy
import hashlib
import re
from dataclasses import dataclass
from typing import Any

from vfmalign.core.domain.errors import BAD_DATA, BAD_SPEC, UNEXPECTED
from vfmalign.finetuning.launchers.base import UNKNOWN_ORIGIN, Origin

Json = dict[str, Any]
"""An object of the Kubernetes API."""
JOB_LABEL = "vfmalign.io/job"
TENANT_LABEL = "vfmalign.io/tenant"
CHECK_LABEL = "vfmalign.io/check"
NETWORK_LABEL = "vfmalign.io/network"
ATTEMPT_LABEL = "vfmalign.io/attempt"
JOB_ANNOTATION = "vfmalign.io/job-id"
"""The full name, with the tenant. Label values have at most 63 characters, so labels may have a shortened name."""
CHECK_ANNOTATION = "vfmalign.io/check-id"
REQUEST_ANNOTATION = "vfmalign.io/request-id"
"""Id of the request that created the job. The log lines of all services contain this id."""
SPEC_ANNOTATION = "vfmalign.io/spec"
STOPPED_ANNOTATION = "vfmalign.io/stopped"
"""Set if the launcher suspended the Job to stop it. Kueue and operators suspend Jobs to make them wait."""
JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
"""Set by the Job controller on the pods of a Job."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
CONTAINER = "training"
SUBDOMAIN = "vfmalign-training"
"""Headless service through which the pods of a job resolve each other's names."""
RENDEZVOUS_PORT = 29400

_RECOMMENDED = {
    "app.kubernetes.io/name": "vfmalign",
    "app.kubernetes.io/component": "training",
    "app.kubernetes.io/part-of": "vfmalign",
    "app.kubernetes.io/managed-by": "vfmalign-finetuning",
}
_IDENTITY = frozenset({TENANT_LABEL, JOB_LABEL, CHECK_LABEL, NETWORK_LABEL, ATTEMPT_LABEL})
_MAX_NAME = 52  # pods of an Indexed Job append `-<index>` and 5 characters; host names have at most 63
_MAX_LABEL = 63
_DIGEST = 10


@dataclass(frozen=True)
class Options:
    """Settings of every Job.

    Attributes:
        template: name of the PodTemplate, which messages show.
        queue: name of the Kueue LocalQueue; empty if there is none.
        active_deadline_s: time limit of one attempt in seconds.
        ttl_s: seconds for which a finished Job is kept.
        nodes, processes_per_node: number of pods per job, and number of training processes per pod.
    """

    template: str = "vfmalign-training"
    queue: str = ""
    active_deadline_s: int = 604_800
    ttl_s: int = 86_400
    nodes: int = 1
    processes_per_node: int = 1

    @property
    def together(self) -> bool:
        """Whether several processes train one job."""
        return self.nodes * self.processes_per_node > 1


def job_name(job: str, attempt: int) -> str:
    """Returns the name of the Job of one attempt. The name never changes, and is valid for every id.

    If the name contains a changed or shortened id, the name ends in a digest of the id.
    """
    prefix, suffix = "vfmalign-", f"-{attempt}"
    slug = re.sub(r"[^a-z0-9]+", "-", job).strip("-")
    return prefix + _shortened(job, slug, _MAX_NAME - len(prefix) - len(suffix)) + suffix


def label_value(identifier: str) -> str:
    """Converts an id to a label value that selects Jobs and pods. A changed id ends in a digest."""
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", identifier).strip("-_.")
    return _shortened(identifier, slug, _MAX_LABEL)


def identity_labels(job: str, attempt: int, origin: Origin) -> dict[str, str]:
    """Returns the labels that identify the Job and pods of one attempt. Empty labels are left out."""
    identity = {
        TENANT_LABEL: origin.tenant,
        JOB_LABEL: label_value(job),
        CHECK_LABEL: label_value(origin.check) if origin.check else "",
        NETWORK_LABEL: origin.network,
        ATTEMPT_LABEL: str(attempt),
    }
    return {name: value for name, value in identity.items() if value}


def manifest(
    pod_template: Json,
    job: str,
    attempt: int,
    spec_uri: str,
    options: Options,
    *,
    origin: Origin = UNKNOWN_ORIGIN,
) -> Json:
    """Returns the Job of one attempt.

    Args:
        pod_template: a core/v1 PodTemplate as the API returns it, with a container named `training`.
        job: id of the job.
        attempt: number of the attempt.
        spec_uri: argument of the training process.
        options: settings of every Job.
        origin: origin of the job, for labels and annotations.

    Raises:
        LookupError: the template has no container named `training`.
    """
    name = job_name(job, attempt)
    pod = copy.deepcopy(pod_template.get("template") or {})
    metadata = pod.setdefault("metadata", {})
    inherited = {key: value for key, value in (metadata.get("labels") or {}).items() if key not in _IDENTITY}
    # The template's labels take precedence, because policies select by them. Only labels that identify the job override
    # them.
    metadata["labels"] = _RECOMMENDED | inherited | identity_labels(job, attempt, origin)
    annotations = _annotations(job, origin)
    metadata["annotations"] = (metadata.get("annotations") or {}) | annotations
    metadata.pop("creationTimestamp", None)
    spec = pod.setdefault("spec", {})
    spec["restartPolicy"] = "Never"
    _command(spec, name, spec_uri, options)
    result: Json = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "labels": dict(metadata["labels"]),
            "annotations": annotations | {SPEC_ANNOTATION: spec_uri},
        },
        "spec": {
            "backoffLimit": 0,
            "completions": options.nodes,
            "parallelism": options.nodes,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules(together=options.together)},
            "activeDeadlineSeconds": options.active_deadline_s,
            "ttlSecondsAfterFinished": options.ttl_s,
            "template": pod,
        },
    }
    if options.together:
        result["spec"]["completionMode"] = "Indexed"
    if options.queue:
        result["metadata"]["labels"][QUEUE_LABEL] = options.queue
        result["spec"]["suspend"] = True  # Kueue resumes it once there is quota
    return result


def _annotations(job: str, origin: Origin) -> dict[str, str]:
    annotations = {JOB_ANNOTATION: job, CHECK_ANNOTATION: origin.check, REQUEST_ANNOTATION: origin.request_id}
    return {name: value for name, value in annotations.items() if value}


def _command(spec: Json, name: str, spec_uri: str, options: Options) -> None:
    container = next((one for one in spec.get("containers") or () if one.get("name") == CONTAINER), None)
    if container is None:
        raise LookupError(CONTAINER)
    if not options.together:
        container["args"] = [spec_uri]
        return
    spec["subdomain"] = SUBDOMAIN
    container["command"] = ["python", "-m", "vfmalign.training.launch"]
    container["args"] = [
        *("--nodes", str(options.nodes), "--processes", str(options.processes_per_node)),
        *("--master", f"{name}-0.{SUBDOMAIN}:{RENDEZVOUS_PORT}"),
        spec_uri,
    ]


def _failure_rules(*, together: bool) -> list[Json]:
    """Returns failure rules with which the Job controller replaces a pod only if its node was removed.

    The first matching rule decides. With `backoffLimit: 0`, a pod that matches no rule also fails the Job, and the
    supervisor starts the next attempt. If several pods train together, a replaced pod could not rejoin the others, so a
    lost node fails the whole attempt.
    """
    lost_node = {"action": "FailJob" if together else "Ignore"}
    codes = [UNEXPECTED, BAD_SPEC, BAD_DATA]
    return [
        lost_node | {"onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": codes}},
    ]


def _shortened(text: str, slug: str, limit: int) -> str:
    """Returns `slug` if it equals `text` and fits. If not, returns its beginning and a digest of `text`."""
    if slug == text and len(slug) <= limit:
        return slug
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]
    start = slug[: limit - _DIGEST - 1].rstrip("-_.")
    return f"{start}-{digest}" if start else digest
