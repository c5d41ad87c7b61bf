"""Run the check of `make demo` in containers, undisturbed and with every container killed once: equal numbers."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.alert_rules import load_groups
from tests.containers.conftest import CHECK_TIMEOUT_S, UP_TIMEOUT_S, Compose
from tests.faults.stack.test_kills import same_numbers
from tests.integration.cli.test_api_examples import build_go, mmd2, read_value, run_program
from tests.monitor_program import COUNTS, EARLY_ROWS, PROGRAM, ROWS, check_undisturbed

from vfmalign.v1 import alignment_pb2

ENDED = {
    alignment_pb2.CHECK_STATE_SUCCEEDED,
    alignment_pb2.CHECK_STATE_FAILED,
    alignment_pb2.CHECK_STATE_CANCELLED,
}


@pytest.mark.timeout(CHECK_TIMEOUT_S + 300)
def test_the_demo_succeeds_with_every_number(demo: Any) -> None:
    assert demo["check"]["state"] == "CHECK_STATE_SUCCEEDED"
    result = demo["check"]["result"]
    assert result["shifts"][0]["mmd"]["standardised"]["mmd2"]["value"] > 0
    assert "value" in result["rpg_specialised"]["relative_percent"]


@pytest.mark.timeout(CHECK_TIMEOUT_S + 300)
def test_killed_containers_do_not_change_the_numbers(compose: Compose, demo: Any, checks: Any) -> None:
    quiet = get(checks, demo["check"]["check_id"])
    request = alignment_pb2.CreateCheckRequest(check_id="killed", spec=quiet.spec)
    checks.CreateCheck(request, timeout=30, wait_for_ready=True)
    for service in ("features", "s3", "finetuning", "mmd", "postgres"):
        # Kill `features` as soon as the check begins, the others while a job trains. The orchestrator loses its job.
        check = wait_for(checks, lambda check, first=service == "features": first or check.progress.unit == "epoch")
        assert check.state not in ENDED, f"the check finished before {service} was killed"
        compose.restart(service)
    check = wait_for(checks, lambda check: False)
    assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED, check.failure
    assert same_numbers(check, quiet)


@pytest.mark.timeout(CHECK_TIMEOUT_S + UP_TIMEOUT_S)
def test_killed_containers_do_not_change_the_evidence_of_a_monitor(compose: Compose, demo: Any) -> None:
    dataset, model = "monitored", demo["check"]["spec"]["model_id"]
    compose("run", "--rm", "-T", "cli", "dataset", "phantoms", "--id", dataset, "--seed", "1", *COUNTS)
    sets = [
        json.loads(compose("run", "--rm", "-T", "cli", *command, "--split", split, "--json"))["feature_set"]
        for command in [("extract", dataset, "--model", model)]
        for split in ("train", "test")
    ]
    reference, observed = (one["feature_set_id"] for one in sets)

    def run(monitor: str, rows: int) -> Any:
        python = ("run", "--rm", "-T", "--entrypoint", "python", "cli", "-c", PROGRAM)
        return json.loads(compose(*python, monitor, reference, observed, str(rows)))

    run("killed", EARLY_ROWS)
    for service in ("monitoring", "postgres", "mmd", "s3"):
        compose.restart(service)
    check_undisturbed(run("killed", ROWS), run("whole", ROWS))
    # What features tells a monitor passes the same way, with the token of features.
    asking = (
        "from pathlib import Path; from vfmalign.client import Client; "
        "Client(token=Path('/run/vfmalign/token')).monitors.get('killed')"
    )
    compose("exec", "-T", "features", "python", "-c", asking)


@pytest.mark.timeout(UP_TIMEOUT_S + 120)
def test_another_user_of_the_machine_gets_nothing(compose: Compose, owner_token: Path) -> None:
    assert owner_token.stat().st_mode & 0o777 == 0o600
    for service in ("FEATURES", "MMD", "FINETUNING", "MONITORING"):
        with grpc.insecure_channel(f"127.0.0.1:{compose.ports[f'{service}_PORT']}") as channel:
            reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            with pytest.raises(grpc.RpcError) as caught:
                list(reflection.ServerReflectionInfo(iter([request]), timeout=30))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED, service


@pytest.mark.timeout(UP_TIMEOUT_S + 120)
def test_the_example_in_go_gets_its_answer(compose: Compose, owner_token: Path, tmp_path: Path) -> None:
    printed = run_program(f"127.0.0.1:{compose.ports['MMD_PORT']}", owner_token, build_go(tmp_path))
    assert read_value(printed, "MMD²") == pytest.approx(mmd2(), abs=1e-6)
    assert 0 < read_value(printed, "p") <= 1
    assert "NotFound NOT_FOUND | feature set some-feature-set | " in printed


@pytest.mark.timeout(UP_TIMEOUT_S + 120)
def test_a_service_has_its_own_credentials_alone(compose: Compose) -> None:
    listing = (
        "import os; names = [name for name in os.environ if name.startswith('AWS_') and 'KEY' in name]; "
        "print(sorted(os.listdir('/run/vfmalign')), os.path.exists('/data/owner'), names)"
    )
    for service in ("features", "mmd", "finetuning", "monitoring"):
        shown = compose("exec", "-T", service, "python", "-c", listing).strip()
        own = {"features": ["dicom-gateway"], "finetuning": ["signing.key"]}.get(service, [])
        assert shown == f"{sorted(['credentials', 'jwks.json', 'token', *own])} False []"


@pytest.mark.timeout(UP_TIMEOUT_S + 120)
def test_containers_reach_no_port_of_the_s3_server_but_that_of_s3(compose: Compose) -> None:
    calling = (
        "import grpc\n"
        "try: grpc.insecure_channel('s3:18333').unary_unary('/a.Service/Method')(b'', timeout=20)\n"
        "except grpc.RpcError as error: print(error.code().name)"
    )
    assert compose("exec", "-T", "mmd", "python", "-c", calling).strip() == "UNAVAILABLE"
    ports = "(8333, 9333, 8080, 8888)"
    connecting = f"import socket; print([one for one in {ports} if not socket.socket().connect_ex(('s3', one))])"
    assert compose("exec", "-T", "mmd", "python", "-c", connecting).strip() == "[8333]"


@pytest.mark.timeout(UP_TIMEOUT_S + 120)
def test_features_reads_from_the_dicom_gateway(compose: Compose) -> None:
    reading = (
        "import base64, os, ssl, urllib.request as u\n"
        "names = ('URL', 'USERNAME', 'PASSWORD_FILE', 'CA_FILE')\n"
        "url, user, password, ca = (os.environ[f'VFMALIGN_DICOMWEB__GATEWAY__{name}'] for name in names)\n"
        "basic = base64.b64encode(f'{user}:{open(password).read()}'.encode()).decode()\n"
        "request = u.Request(f'{url}/studies', headers={'Authorization': f'Basic {basic}'})\n"
        "print(u.urlopen(request, context=ssl.create_default_context(cafile=ca)).read().decode())"
    )
    try:
        compose("--profile", "dimse", "up", "--detach", "--wait", "dicom-gateway")
        assert compose("exec", "-T", "features", "python", "-c", reading).strip() == "[]"
    finally:  # it would stay at its version in the test of an upgrade, which knows nothing of the profile
        compose("--profile", "dimse", "rm", "--stop", "--force", "dicom-gateway")


@pytest.mark.timeout(120)
def test_prometheus_scrapes_every_service(compose: Compose) -> None:
    deadline = time.monotonic() + 60
    url = f"http://127.0.0.1:{compose.ports['PROMETHEUS_PORT']}/api/v1/query?query=up"
    expected = {f"vfmalign-{name}": "1" for name in ("features", "mmd", "finetuning", "monitoring")}
    up: dict[str, str] = {}
    while up != expected and time.monotonic() < deadline:
        with urllib.request.urlopen(url, timeout=10) as answer:
            up = {one["metric"]["job"]: one["value"][1] for one in json.load(answer)["data"]["result"]}
        time.sleep(1)
    assert up == expected
    with urllib.request.urlopen(url.replace("query?query=up", "rules"), timeout=10) as answer:
        groups = json.load(answer)["data"]["groups"]
    names = {rule.get("alert") or rule["record"] for group in load_groups() for rule in group["rules"]}
    assert {rule["name"] for group in groups for rule in group["rules"]} == names


def get(checks: Any, check_id: str) -> Any:
    """Returns a check; waits while the service restarts."""
    return checks.GetCheck(alignment_pb2.GetCheckRequest(check_id=check_id), timeout=90, wait_for_ready=True).check


def wait_for(checks: Any, moment: Callable[[Any], bool]) -> Any:
    """Returns the disturbed check once `moment` holds or the check has finished."""
    deadline = time.monotonic() + CHECK_TIMEOUT_S
    while time.monotonic() < deadline:
        check = get(checks, "killed")
        if moment(check) or check.state in ENDED:
            return check
        time.sleep(0.2)
    raise AssertionError(f"the check has not finished: {check.progress}")
