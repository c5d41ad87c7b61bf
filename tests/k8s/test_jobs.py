"""The orchestrator turns the rendered PodTemplate into a Job that is valid for every supported version."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
from tests.k8s.gpu_policy import gpus
from tests.k8s.pod_policy import POD_RULES
from tests.k8s.rendering import Object, render
from tests.k8s.test_schemas import VERSIONS

from vfmalign.finetuning.launchers.kubernetes.manifest import Options, manifest

OPTIONS = {
    "one process": Options(),
    "two nodes of two GPUs": Options(nodes=2, processes_per_node=2),
    "in a queue": Options(queue="vfmalign"),
}


def _job(composition: str, options: Any) -> tuple[Object, list[Object]]:
    objects = render(composition)
    template = next(item for item in objects if item["kind"] == "PodTemplate")
    return manifest(
        template, "check-1-pretrained", 1, "s3://vfmalign/default/jobs/check-1-pretrained/spec.json", options
    ), objects


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OPTIONS)
def test_it_is_valid(name: str, version: str) -> None:
    job, _ = _job("overlays/gpu", OPTIONS[name])
    kubernetes_validate.validate(job, version, strict=True)


@pytest.mark.parametrize("name", OPTIONS)
def test_its_pods_follow_the_policy_and_request_a_gpu(name: str) -> None:
    job, objects = _job("overlays/gpu", OPTIONS[name])
    referenced = [item for item in objects if item["kind"] in {"ConfigMap", "ServiceAccount"}]
    assert [sentence for rule in POD_RULES for sentence in rule([job, *referenced])] == []
    assert gpus([job]) == {"training": {"nvidia.com/gpu": "1"}}
