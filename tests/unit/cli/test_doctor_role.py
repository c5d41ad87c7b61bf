"""What `doctor` and `show` say about the role of a service with a leader, asked over a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from vfmalign.cli.commands.api.lifecycle import warn_without_leader
from vfmalign.cli.local.doctor import _describe_role
from vfmalign.cli.target import Target
from vfmalign.cli.views.output import Output
from vfmalign.core.domain.errors import Unavailable


@pytest.fixture
def served() -> Iterator[tuple[health.HealthServicer, Any]]:
    """A health service, and a target whose services with a leader it is."""
    server, state = grpc.server(ThreadPoolExecutor(2)), health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield state, SimpleNamespace(addresses=dict.fromkeys(("finetuning", "monitoring"), f"127.0.0.1:{port}"), files=None)
    server.stop(None)


@pytest.mark.parametrize(
    ("leader", "orchestration", "text"), [(True, True, "leads"), (False, True, "stands by for the leader")]
)
def test_the_leader_and_a_standby_are_told_apart(served, leader: bool, orchestration: bool, text: str) -> None:
    state, target = served
    for name, serves in (("leader", leader), ("orchestration", orchestration)):
        status = health_pb2.HealthCheckResponse
        state.set(name, status.SERVING if serves else status.NOT_SERVING)
    for service in ("finetuning", "monitoring"):
        assert text in _describe_role(target, service)


def test_a_deployment_without_a_leader_is_a_failure(served) -> None:
    state, target = served
    for name in ("leader", "orchestration"):
        state.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
    for service, missing in (
        ("finetuning", "checks and jobs do not go on"),
        ("monitoring", "windows are not computed"),
    ):
        with pytest.raises(Unavailable, match=f"no process leads, so {missing}"):
            _describe_role(target, service)


@pytest.mark.parametrize(
    ("orchestrated", "state", "warns"), [(False, "running", True), (False, "failed", False), (True, "running", False)]
)
def test_what_runs_without_a_leader_is_shown_with_that(
    served, capsys: pytest.CaptureFixture[str], orchestrated: bool, state: Any, warns: bool
) -> None:
    health_state, target = served
    status = health_pb2.HealthCheckResponse
    health_state.set("orchestration", status.SERVING if orchestrated else status.NOT_SERVING)
    warn_without_leader(Target(target.addresses, None), state, Output.to_terminal())
    assert ("no orchestrator is active, so work is paused; run `vfmalign doctor`" in capsys.readouterr().err) == warns


def test_a_service_without_an_address_is_not_asked_who_leads(capsys: pytest.CaptureFixture[str]) -> None:
    warn_without_leader(Target({}, None), "running", Output.to_terminal())
    assert not capsys.readouterr().err
