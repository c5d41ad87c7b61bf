"""The examples in k8s/examples: real service discovery on an emulated API, and a route for every service of the API."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.finetuning.kubernetes.emulator import PODS, Api
from tests.k8s.network import Caller, may_call
from tests.k8s.pod_policy import disks_fit, resourced
from tests.k8s.policy import LABELS
from tests.k8s.rendering import K8S, NAMESPACE, pods, render
from tests.k8s.test_schemas import VERSIONS, list_errors

import vfmalign
from vfmalign.core.runtime.auth_settings import AuthSettings

EXAMPLES = K8S / "examples"
GATEWAY = K8S / "components" / "dicom-gateway" / "gateway.yaml"
OBSERVED = {name: f"vfmalign-{name}" for name in ("features", "mmd", "finetuning", "monitoring")}


@pytest.fixture
def api() -> Iterator[Api]:
    cluster = Api(NAMESPACE)
    yield cluster
    cluster.close()


def run_pods(api: Api) -> None:
    """Adds a running pod of every workload, a pod that has ended, and pods of the gateway and of somebody else."""
    for number, pod in enumerate(pods(render("overlays/local")), start=1):
        add_pod(api, pod.component, pod.labels, pod.containers[-1], number)
        if pod.component == "mmd":
            add_pod(api, "mmd-ended", pod.labels, pod.containers[-1], 100, phase="Failed")
    stranger = {"app.kubernetes.io/name": "notebook", "app.kubernetes.io/component": "mmd"}
    port = {"name": "metrics", "containerPort": 8002}
    add_pod(api, "stranger", stranger, {"name": "x", "image": "x:1", "ports": [port]}, 101)
    deployment = next(one for one in yaml.safe_load_all(GATEWAY.read_text()) if one["kind"] == "Deployment")
    template = deployment["spec"]["template"]
    container = next(one for one in template["spec"]["containers"] if port in one["ports"])
    add_pod(api, "dicom-gateway", template["metadata"]["labels"], container, 102)


def add_pod(api: Api, name: str, labels: dict[str, str], container: dict[str, Any], number: int, **status: str) -> None:
    address = f"10.0.0.{number}"
    shown = {key: container[key] for key in container.keys() & {"name", "image", "ports"}}
    metadata = {"name": name, "labels": labels, "uid": name}
    running = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    api.add(PODS, {
        "metadata": metadata, "spec": {"nodeName": "n", "containers": [shown]}, "status": running | status,
    })  # fmt: skip


@pytest.fixture
def prometheus() -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in yaml.safe_load_all((EXAMPLES / "prometheus.yaml").read_text())}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_prometheus_example_is_valid(prometheus: dict[str, dict[str, Any]], version: str) -> None:
    assert [error for item in prometheus.values() if (error := list_errors(item, version))] == []
    assert all(item["metadata"]["labels"].keys() == set(LABELS) for item in prometheus.values())


def test_prometheus_may_find_pods_of_the_services_and_nothing_else(prometheus: dict[str, dict[str, Any]]) -> None:
    config = yaml.safe_load(prometheus["ConfigMap"]["data"]["prometheus.yml"])
    (discovery,) = config["scrape_configs"][0]["kubernetes_sd_configs"]
    role, binding = prometheus["Role"], prometheus["RoleBinding"]
    assert discovery["namespaces"]["names"] == [NAMESPACE] == [role["metadata"]["namespace"]]
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert (binding["metadata"]["namespace"], binding["subjects"][0]["namespace"]) == (NAMESPACE, "monitoring")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package promtool)")
def test_prometheus_discovers_the_services_pods_without_the_operator(
    api: Api, prometheus: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    run_pods(api)
    config = yaml.safe_load(prometheus["ConfigMap"]["data"]["prometheus.yml"])
    for file in config["rule_files"]:
        shutil.copy(K8S.parent / "deploy" / "prometheus" / file, tmp_path)
    (job,) = config["scrape_configs"]
    (discovery,) = job["kubernetes_sd_configs"]
    discovery["kubeconfig_file"] = str(api.kubeconfig(tmp_path))
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    checked = subprocess.run(
        ["promtool", "check", "config", "prometheus.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    # It ends after the timeout, which is the time that targets have to appear.
    command = ["promtool", "check", "service-discovery", "--timeout=3s", "prometheus.yaml", "vfmalign"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    targets = [one["labels"] for one in json.loads(result.stdout[result.stdout.index("[") :]) if one.get("labels")]
    labels = ("job", "namespace", "pod", "__address__")
    assert sorted(tuple(one[label].rpartition(":")[2] for label in labels) for one in targets) == sorted(
        (job, "vfmalign", component, "8002")
        for component, job in (OBSERVED | {"dicom-gateway": "vfmalign-dicom-gateway"}).items()
    )


@pytest.fixture
def route() -> dict[str, Any]:
    return yaml.safe_load((EXAMPLES / "grpc-route.yaml").read_text())


def test_every_service_of_the_api_is_routed_to_its_deployment(route: dict[str, Any]) -> None:
    routed = {
        match["method"]["service"]: (backend["name"], backend["port"])
        for rule in route["spec"]["rules"]
        for match in rule["matches"]
        for backend in rule["backendRefs"]
    }
    stubs = (Path(vfmalign.__file__).parent / "v1").glob("*_pb2.py")
    modules = [import_module(f"vfmalign.v1.{path.stem}") for path in stubs]
    served = {service.full_name for module in modules for service in module.DESCRIPTOR.services_by_name.values()}
    assert routed.keys() == served
    objects = render("overlays/gpu")
    ports = {(one["metadata"]["name"], one["spec"]["ports"][0]["port"]) for one in objects if one["kind"] == "Service"}
    assert set(routed.values()) <= ports
    implemented = {
        name: f"vfmalign-{package}"
        for package in OBSERVED
        for name in served
        if f"add_{name.rpartition('.')[2]}Servicer_to_server" in _read_sources(package)
    }
    assert {name: backend for name, (backend, _) in routed.items()} == implemented


def _read_sources(package: str) -> str:
    return "".join(path.read_text() for path in (Path(vfmalign.__file__).parent / package).rglob("*.py"))


def test_the_route_is_a_complete_object_of_the_gateway_api(route: dict[str, Any]) -> None:
    assert (route["apiVersion"], route["kind"]) == ("gateway.networking.k8s.io/v1", "GRPCRoute")
    assert route["metadata"]["labels"].keys() == set(LABELS)
    assert route["spec"].keys() == {"parentRefs", "hostnames", "rules"}
    assert all(rule.keys() == {"matches", "backendRefs"} for rule in route["spec"]["rules"])


def test_the_client_is_admitted_and_may_do_no_more_than_its_token_says() -> None:
    client = yaml.safe_load((EXAMPLES / "client.yaml").read_text())
    spec, (container,) = client["spec"], client["spec"]["containers"]
    objects = render("overlays/local")
    accounts = {one["metadata"]["name"] for one in objects if one["kind"] == "ServiceAccount"}
    assert spec["serviceAccountName"] in accounts
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert not any(name.startswith("AWS_") for name in variables)
    for name in OBSERVED:
        assert variables[f"VFMALIGN_{name.upper()}_ADDRESS"] == f"dns:///vfmalign-{name}:8001"
    (token,) = spec["volumes"][1]["projected"]["sources"]
    assert token["serviceAccountToken"]["audience"] == AuthSettings().audience
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "token")
    assert variables["VFMALIGN_TOKEN_FILE"] == f"{mount['mountPath']}/{token['serviceAccountToken']['path']}"
    assert container["image"] == f"vfmalign/cli:{vfmalign.__version__}"
    assert [*resourced([client]), *disks_fit([client])] == []
    others = {other.component: other for other in pods(objects)}
    for name in OBSERVED:
        assert may_call(objects, Caller(client["metadata"]["labels"]), others[name], 8001)


def test_the_dimse_service_leads_to_the_gateway_and_keeps_addresses() -> None:
    service = yaml.safe_load((EXAMPLES / "dimse-service.yaml").read_text())
    objects = [*render("cpu-with-dicom-gateway")]
    (gateway,) = (pod for pod in pods(objects) if service["spec"]["selector"].items() <= pod.labels.items())
    ports = {port["name"]: port["containerPort"] for port in gateway.containers[0]["ports"]}
    assert [ports[one["targetPort"]] for one in service["spec"]["ports"]] == [4242]
    assert service["spec"]["externalTrafficPolicy"] == "Local"
    assert service["metadata"]["labels"].keys() == set(LABELS)


EXAMPLE_NAMES = {"client.yaml", "connection-limit.yaml", "dimse-service.yaml", "grpc-route.yaml", "prometheus.yaml"}


@pytest.mark.parametrize("name", sorted(EXAMPLE_NAMES))
def test_the_readme_lists_every_example(name: str) -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == EXAMPLE_NAMES
    assert f"`examples/{name}`" in (K8S / "README.md").read_text()
