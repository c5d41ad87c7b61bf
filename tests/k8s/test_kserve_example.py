"""The manifest of examples/kserve: complete objects that fit the bridge, KServe's logger and this deployment."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from tests.k8s.pod_policy import disks_fit, images_are_pinned, resourced
from tests.k8s.rendering import K8S
from tests.k8s.test_schemas import VERSIONS, list_errors

from vfmalign.core.domain.record import SHA256
from vfmalign.core.runtime.auth_settings import AuthSettings

FOLDER = K8S.parent / "examples/kserve"
BRIDGE = (FOLDER / "bridge.py").read_text()


@pytest.fixture
def objects() -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in yaml.safe_load_all((FOLDER / "monitored.yaml").read_text())}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_of_kubernetes_is_valid(objects: dict[str, dict[str, Any]], version: str) -> None:
    assert objects.pop("InferenceService")["apiVersion"] == "serving.kserve.io/v1beta1"
    assert objects.keys() == {"ServiceAccount", "Service", "Deployment", "NetworkPolicy"}
    assert [error for item in objects.values() if (error := list_errors(item, version))] == []
    assert {one["metadata"]["namespace"] for one in objects.values()} == {"models"}


def test_the_logger_posts_the_responses_and_headers_that_the_bridge_reads(objects: dict[str, dict[str, Any]]) -> None:
    service, logger = objects["Service"], objects["InferenceService"]["spec"]["predictor"]["logger"]
    assert logger["mode"] == "response"
    assert f".inference.{logger['mode']}" in BRIDGE
    assert logger["url"] == f"http://{service['metadata']['name']}.models.svc.cluster.local"
    assert service["spec"]["ports"][0]["port"] == 80
    assert set(logger["metadataHeaders"]) == set(re.findall(r'"(X-[\w-]+)"', BRIDGE))
    for name in logger["metadataHeaders"]:
        assert name == "-".join(word.capitalize() for word in name.split("-")), "Go writes headers like this"


def test_the_bridge_has_its_settings_and_a_token_and_hears_the_model_alone(objects: dict[str, dict[str, Any]]) -> None:
    pod = objects["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    variables = {one["name"]: one["value"] for one in container["env"]}
    assert set(re.findall(r'environ\["(\w+)"\]', BRIDGE)) <= variables.keys()
    assert not any(SHA256.matches(variables[name]) for name in ("CHECKPOINT_SHA256", "PREPROCESSING_SHA256"))
    (token,) = pod["spec"]["volumes"][0]["projected"]["sources"]
    assert token["serviceAccountToken"]["audience"] == AuthSettings().audience
    (mount,) = container["volumeMounts"]
    assert variables["VFMALIGN_TOKEN_FILE"] == f"{mount['mountPath']}/{token['serviceAccountToken']['path']}"
    assert pod["spec"]["serviceAccountName"] == objects["ServiceAccount"]["metadata"]["name"]
    labels = pod["metadata"]["labels"]
    selected = (objects["Service"]["spec"]["selector"], objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"])
    assert all(selector == labels for selector in selected)
    for rule in (resourced, disks_fit, images_are_pinned):
        assert list(rule([objects["Deployment"]])) == []
    (rule,) = objects["NetworkPolicy"]["spec"]["ingress"]
    assert rule["from"] == [
        {
            "podSelector": {
                "matchLabels": {
                    "serving.kserve.io/inferenceservice": objects["InferenceService"]["metadata"]["name"],
                }
            }
        }
    ]
