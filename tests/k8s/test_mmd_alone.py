"""The overlay `mmd` runs the MMD service alone: no other workload, no object storage and no credentials."""

from __future__ import annotations

import json

import pytest
from tests.k8s.network import Caller, isolated, may_call, may_leave, to_caller
from tests.k8s.policy import violations
from tests.k8s.rendering import MMD_ALONE, environment, expand, pods, render

from vfmalign.core.runtime.settings import load
from vfmalign.mmd.settings import MmdSettings

EVERY = sorted(MMD_ALONE)
CLIENT = {"app.kubernetes.io/name": "vfmalign", "app.kubernetes.io/component": "client"}
STRANGER = {"app.kubernetes.io/name": "notebook"}
PORTS = (8001, 8002, 8003, 5432)


@pytest.mark.parametrize("name", EVERY)
def test_it_follows_the_policy(name: str) -> None:
    assert violations(render(name), has_orchestrator=False) == []


@pytest.mark.parametrize("name", EVERY)
def test_the_only_workload_is_mmd_and_it_reads_no_secret_for_object_storage(name: str) -> None:
    objects = render(name)
    (pod,) = pods(objects)
    assert (pod.owner["kind"], pod.owner["metadata"]["name"]) == ("Deployment", "vfmalign-mmd")
    text = json.dumps(objects)
    assert "AWS_" not in text
    assert "secretKeyRef" not in text
    assert "vfmalign-store" not in text


@pytest.mark.parametrize("name", EVERY)
def test_the_service_accepts_its_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = render(name)
    (pod,) = pods(objects)
    variables = environment(pod.spec["containers"][0], objects)
    assert variables["VFMALIGN_AUTH__MODE"] == "oidc"
    variables["VFMALIGN_AUTH__ISSUERS"] = json.dumps(["https://login.hospital.example", variables["CLUSTER_ISSUER"]])
    for key, value in expand(variables).items():
        if not key.endswith(("_FILE", "_FILES")):  # files of volumes exist in the cluster only
            monkeypatch.setenv(key, value)
    assert load(MmdSettings).store.endpoint == ""


def test_clients_alone_call_it_and_it_reaches_the_openid_provider_alone() -> None:
    objects = render("overlays/mmd")
    (pod,) = pods(objects)
    callers = {"mmd": to_caller(pod), "client": Caller(CLIENT), "stranger": Caller(STRANGER)}
    calls = {(name, port) for name, own in callers.items() for port in PORTS if may_call(objects, own, pod, port)}
    assert calls == {("client", 8001)}
    assert isolated(objects, pod) == {"Ingress", "Egress"}
    outside = {(name, port) for name, own in callers.items() for port in (80, 443, 5432, 6443)
               if may_leave(objects, own, "192.0.2.1", port)}  # fmt: skip
    assert outside == {("mmd", 443)}
