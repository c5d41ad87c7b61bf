"""Every overlay and component follows the policy, and only the intended calls between pods are possible."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from tests.alert_rules import load_groups, load_rules
from tests.k8s.gpu_policy import gpu_violations, gpus
from tests.k8s.network import Caller, isolated, may_be_reached, may_call, may_leave, to_caller
from tests.k8s.pod_policy import SERVERS
from tests.k8s.policy import get_namespaces, violations
from tests.k8s.rendering import (
    JOBS_NAMESPACE,
    K8S,
    NAMESPACE,
    WHOLE,
    Object,
    Pod,
    environment,
    expand,
    kustomize,
    pods,
    read_example,
    render,
    settings_maps,
)

from vfmalign import __version__
from vfmalign.client.messages.common import JOB_STATES
from vfmalign.core.runtime import metrics
from vfmalign.core.runtime.settings import load, parser

EVERY = sorted(WHOLE)
WITH_GPU = [name for name in EVERY if "gpu" in " ".join(WHOLE[name])]
LOCAL = [name for name in EVERY if "overlays/local" in WHOLE[name]]
PACS = "VFMALIGN_DICOMWEB__"
"""Prefix of settings that have the name of a server in theirs; `load` refuses those that no server has."""
PLACEHOLDER = "SET-THE-URL-OF-YOUR-OPENID-PROVIDER"
CLIENT = {"app.kubernetes.io/name": "vfmalign", "app.kubernetes.io/component": "client"}
STRANGER = {"app.kubernetes.io/name": "notebook"}
OTHERS = {
    "client": Caller(CLIENT),
    "stranger": Caller(STRANGER),
    "client among jobs": Caller(CLIENT, JOBS_NAMESPACE),
    "stranger among jobs": Caller(STRANGER, JOBS_NAMESPACE),
    "client elsewhere": Caller(CLIENT, "default"),
    "prometheus": Caller(STRANGER, "monitoring"),
}


@pytest.mark.parametrize("name", EVERY)
def test_it_follows_the_policy(name: str) -> None:
    assert violations(render(name)) == []


@pytest.mark.parametrize("name", sorted(set(EVERY) - set(LOCAL)))
def test_it_follows_the_policy_with_the_readme_s_other_names(name: str) -> None:
    resource, *components = WHOLE[name]
    objects = kustomize(read_example(2) | {"resources": [resource], "components": components})
    assert violations(objects) == []
    assert get_namespaces(objects) == ("hospital", "hospital-jobs")
    assert {one["metadata"].get("namespace", "") for one in objects} == {"", "hospital", "hospital-jobs"}


def test_one_namespace_for_both_is_refused() -> None:
    with pytest.raises(AssertionError, match="namespace transformation produces ID conflict"):
        kustomize({"namespace": "one", "resources": ["overlays/cpu"], "components": []})


@pytest.mark.parametrize("name", WITH_GPU)
def test_gpu_workloads_request_one_gpu_each_on_the_pool(name: str) -> None:
    assert gpu_violations(render(name)) == []


@pytest.mark.parametrize("name", [name for name in EVERY if name not in WITH_GPU])
def test_without_the_component_nothing_requests_a_gpu(name: str) -> None:
    objects = render(name)
    assert gpus(objects) == {}
    assert not any("affinity" in pod.spec or "tolerations" in pod.spec for pod in pods(objects))


def test_mig_gives_slices_to_services_and_a_whole_gpu_to_jobs() -> None:
    assert gpus(render("gpu-with-mig")) == {
        "features": {"nvidia.com/mig-2g.20gb": "1"},
        "mmd": {"nvidia.com/mig-1g.10gb": "1"},
        "training": {"nvidia.com/gpu": "1"},
    }


def test_only_the_autoscaler_sets_the_number_of_replicas() -> None:
    objects = render("cpu-with-hpa")
    scaled = {one["spec"]["scaleTargetRef"]["name"]: one for one in objects if one["kind"] == "HorizontalPodAutoscaler"}
    deployments = {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "Deployment"}
    assert scaled.keys() == {"vfmalign-features", "vfmalign-mmd"}
    assert [name for name, spec in deployments.items() if "replicas" not in spec] == sorted(scaled)
    measured = {one["spec"]["metrics"][0]["pods"]["metric"]["name"] for one in scaled.values()}
    assert measured <= _metric_names()


@pytest.fixture(scope="module")
def by_component() -> dict[str, dict[str, Pod]]:
    return {
        name: {pod.component: pod for pod in pods(render(name))}
        for name in ("overlays/cpu", "overlays/local", "everything")
    }


@pytest.mark.parametrize("name", ["overlays/cpu", "overlays/local", "everything"])
def test_only_intended_calls_are_possible(name: str, by_component: dict[str, dict[str, Pod]]) -> None:
    objects, components = render(name), by_component[name]
    callers = {part: to_caller(pod) for part, pod in components.items()} | OTHERS
    ports = {8001, 8002, 8003, 8333, 5432, 29400, 8443, 4242, 8042}
    calls = {
        (name, called, port)
        for name, caller in callers.items()
        for called, pod in components.items()
        for port in ports
        if may_call(objects, caller, pod, port)
    }
    expected = {("finetuning", "features", 8001), ("finetuning", "mmd", 8001), ("finetuning", "monitoring", 8001)}
    expected |= {("features", "monitoring", 8001), ("monitoring", "mmd", 8001)}
    expected |= {("client", server, 8001) for server in SERVERS}
    expected |= {("prometheus", server, 8002) for server in SERVERS}
    expected |= {("training", "training", port) for port in ports}
    if name == "overlays/local":
        expected |= {(caller, "s3", 8333) for caller in (*SERVERS, "training", "client")}
        expected |= {("client among jobs", "s3", 8333), ("stranger among jobs", "s3", 8333)}
        expected |= {("finetuning", "postgresql", 5432), ("monitoring", "postgresql", 5432)}
    if name == "everything":
        expected |= {("features", "dicom-gateway", 8443), ("prometheus", "dicom-gateway", 8002)}
    assert calls == expected
    assert all(isolated(objects, pod) == {"Ingress", "Egress"} for pod in components.values())


def test_devices_reach_the_dicom_port_of_the_gateway_which_reaches_nothing() -> None:
    objects = render("everything")
    gateway = next(pod for pod in pods(objects) if pod.component == "dicom-gateway")
    reached = {
        (address, port) for address in ("192.0.2.7", "198.51.100.7") for port in (4242, 8002, 8042, 8443)
        if may_be_reached(objects, gateway, address, port)
    }  # fmt: skip
    assert reached == {("192.0.2.7", 4242)}
    caller = to_caller(gateway)
    assert not any(may_leave(objects, caller, "192.0.2.7", port) for port in (80, 104, 443, 4242, 5432, 6443, 8443))


def test_external_addresses_are_reached_by_those_that_need_them(by_component: dict[str, dict[str, Pod]]) -> None:
    objects, components = render("overlays/cpu"), by_component["overlays/cpu"]
    everybody = {part: to_caller(pod) for part, pod in components.items()} | OTHERS
    inside = {part: one for part, one in everybody.items() if one.namespace in {NAMESPACE, JOBS_NAMESPACE}}

    def callers(address: str, port: int) -> set[str]:
        return {part for part, one in inside.items() if may_leave(objects, one, address, port)}

    among_jobs = {"training", "client among jobs", "stranger among jobs"}
    assert callers("192.0.2.1", 443) == {*SERVERS, "client", *among_jobs}  # object storage
    assert callers("192.0.2.1", 5432) == {"finetuning", "monitoring"}  # database
    assert callers("192.0.2.1", 6443) == {"finetuning"}  # API server
    assert callers("192.0.2.1", 80) == set()
    assert callers("169.254.169.254", 443) == set()  # the metadata service of clouds


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("program", [*SERVERS, "training"])
def test_each_program_accepts_its_settings_once_the_issuer_is_set(
    name: str, program: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    objects = render(name)
    pod = next(pod for pod in pods(objects) if pod.component == program)
    container = pod.spec["containers"][0]
    variables = environment(container, objects)
    variables = expand(variables)
    variables |= {one["name"]: "from-a-secret" for one in container["env"] if "valueFrom" in one}
    known = _settings_class(program)
    listed = parser(program, known).format_help()
    unknown = {key for key in variables if key.startswith(("VFMALIGN_", "AWS_")) and f"  {key} " not in listed}
    assert {key for key in unknown if not key.startswith(PACS)} == set()
    for key, value in variables.items():
        # Files of volumes exist in the cluster only; those of a PACS are opened by its calls.
        if not key.endswith(("_FILE", "_FILES")) or key.startswith(PACS):
            monkeypatch.setenv(key, value)
    if program != "training" and name not in LOCAL:
        with pytest.raises(SystemExit):
            load(known)
        assert "VFMALIGN_AUTH__ISSUERS is wrong" in capfd.readouterr().err
        issuers = variables["VFMALIGN_AUTH__ISSUERS"].replace(PLACEHOLDER, "https://login.hospital.example")
        monkeypatch.setenv("VFMALIGN_AUTH__ISSUERS", issuers)
    load(known)


def test_the_readme_names_the_value_without_which_no_service_starts() -> None:
    assert PLACEHOLDER in (K8S / "base" / "services" / "kustomization.yaml").read_text()
    assert PLACEHOLDER in (K8S / "README.md").read_text()


def _settings_class(program: str) -> type:
    module = import_module(f"vfmalign.{program}.settings")
    return getattr(module, f"{program.capitalize()}Settings")


def test_the_images_have_this_version() -> None:
    objects = render("overlays/gpu")
    own_pods = [pod for pod in pods(objects) if pod.labels["app.kubernetes.io/name"] == "vfmalign"]
    assert {container["image"].partition(":")[2] for pod in own_pods for container in pod.containers} == {__version__}
    assert {pod.labels["app.kubernetes.io/version"] for pod in own_pods} == {__version__}


def _metric_names() -> set[str]:
    for package in (*SERVERS, "database"):
        import_module(f"vfmalign.{package}.metrics")
    return {name + suffix for name in metrics.REGISTRY._names_to_collectors for suffix in ("", "_total")}


@pytest.fixture
def alerts() -> list[Object]:
    rules = [one for one in render("cpu-with-monitoring") if one["kind"] == "PrometheusRule"]
    assert {one["metadata"]["name"] for one in rules} == {"vfmalign", "vfmalign-slos"}
    return [group for one in rules for group in one["spec"]["groups"]]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package promtool)")
def test_alerts_fire_on_their_conditions(alerts: list[Object], tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": alerts}))
    shutil.copy(Path(__file__).with_name("alerts.yaml"), tmp_path)
    command = ["promtool", "test", "rules", "alerts.yaml"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_alerts_use_existing_metrics(alerts: list[Object]) -> None:
    rules = [rule for group in alerts for rule in group["rules"]]
    used = {name for rule in rules for name in re.findall(r"\b(?:vfmalign|grpc_server)_\w+", rule["expr"])}
    assert used
    assert {re.sub("_(bucket|count|sum)$", "", name) for name in used} <= _metric_names()
    states = {state for rule in rules for found in re.findall(r'state=~?"([\w|]+)"', rule["expr"])
              for state in found.split("|")}  # fmt: skip
    assert "pending" in states
    assert states <= set(JOB_STATES)


@pytest.mark.parametrize("rule", load_rules(), ids=lambda rule: rule["alert"])
def test_every_alert_has_a_runbook_and_a_test(rule: Object) -> None:
    """Those of objectives are tested in tests/unit/deploy/test_objectives.py."""
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (K8S.parent / page).read_text(), flags=re.MULTILINE)
    assert rule["alert"] in headings
    assert anchor == rule["alert"].lower()
    fired = f'alertname="{rule["alert"]}",alertstate="firing"'
    assert "sloth_severity" in rule["labels"] or fired in Path(__file__).with_name("alerts.yaml").read_text()


def test_compose_loads_the_same_alerts() -> None:
    folder = K8S.parent / "deploy" / "prometheus"
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    groups = [group for file in config["rule_files"] for group in yaml.safe_load((folder / file).read_text())["groups"]]
    assert groups == load_groups(), "run `make dashboards`"
    compose = yaml.safe_load((K8S.parent / "deploy" / "compose.yaml").read_text())
    for file in config["rule_files"]:
        assert f"./prometheus/{file}:/etc/prometheus/{file}:ro" in compose["services"]["prometheus"]["volumes"]
    if shutil.which("promtool") is not None:
        subprocess.run(["promtool", "check", "config", folder / "prometheus.yml"], check=True, capture_output=True)


def test_the_readme_s_overlay_follows_the_policy() -> None:
    objects = kustomize(read_example(1))
    assert violations(objects) == []
    stores = [data for name, data in settings_maps(objects).items() if name.startswith("vfmalign-store-")]
    assert [store["AWS_ENDPOINT_URL_S3"] for store in stores] == ["https://s3.hospital.example"] * 2
    features = next(pod for pod in pods(objects) if pod.component == "features")
    assert features.containers[0]["image"] == f"registry.example.org/vfmalign/features:{__version__}"
    assert any(item["kind"] == "PrometheusRule" for item in objects)


def test_an_overlay_pins_images_by_digest() -> None:
    site, digest = read_example(1), f"sha256:{'0' * 64}"
    names = ("features", "mmd", "finetuning", "monitoring", "training", "dicom-gateway")
    site["images"] = [{"name": f"vfmalign/{name}", "newName": f"r.example/{name}", "digest": digest} for name in names]
    objects = kustomize(site | {"components": ["components/dicom-gateway"]})
    images = {container["image"] for pod in pods(objects) for container in pod.containers}
    assert images == {f"r.example/{name}@{digest}" for name in names}
    assert violations(objects) == []


def test_the_readme_s_overlay_sets_the_devices_of_the_gateway() -> None:
    objects = kustomize(read_example(4))
    assert violations(objects) == []
    settings = settings_maps(objects)
    (name,) = (name for name in settings if name.startswith("vfmalign-dicom-gateway"))
    gateway = next(pod for pod in pods(objects) if pod.component == "dicom-gateway")
    assert gateway.containers[0]["envFrom"] == [{"configMapRef": {"name": name}}], "a changed list rolls the pod"
    assert name not in settings_maps(render("cpu-with-dicom-gateway"))
    hosts = [device.partition("@")[2] for device in settings[name]["DICOM_DEVICES"].split()]
    assert hosts == ["10.1.2.3", "10.1.2.4"]
    reached = [host for host in (*hosts, "192.0.2.7", "10.1.2.5") if may_be_reached(objects, gateway, host, 4242)]
    assert reached == hosts


def test_a_generator_of_the_overlay_cannot_set_the_devices() -> None:
    site = read_example(4)
    del site["patches"]
    merge = {"name": "vfmalign-dicom-gateway", "behavior": "merge", "literals": ["DICOM_DEVICES=MR1"]}
    with pytest.raises(AssertionError, match="does not exist; cannot merge or replace"):
        kustomize(site | {"configMapGenerator": [merge]})


def test_the_readme_s_roles_of_pods_follow_the_policy() -> None:
    objects = kustomize(read_example(3))
    assert violations(objects) == []
    for pod in pods(objects):
        if pod.component in SERVERS:
            variables = expand(environment(pod.spec["containers"][0], objects))
            (roles,) = json.loads(variables["VFMALIGN_AUTH__SUBJECT_ROLES"]).values()
            assert roles["system:serviceaccount:research:notebook"] == ["viewer", "researcher"]
            for name in ("features", "finetuning", "monitoring"):
                assert roles[f"system:serviceaccount:vfmalign:vfmalign-{name}"] == [name]


def test_the_readme_lists_every_overlay_and_component() -> None:
    text = (K8S / "README.md").read_text()
    for folder in (*(K8S / "overlays").iterdir(), *(K8S / "components").iterdir()):
        assert f"`{folder.name}`" in text, folder.name
